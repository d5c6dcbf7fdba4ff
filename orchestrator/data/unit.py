"""A unit: one pass over some shards of one source, as arithmetic. row.py strings units together.

Shards in keyed order -> windows -> documents in keyed order -> one token stream -> sequences of L+1 tokens, stride L ->
keyed order inside the window -> equal lanes, taken in turn. Without `seq_len` the kept samples themselves are what is
ordered. Memory is O(shards); only the windows in use are laid out."""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.errors import DataError
from orchestrator.core.keyed import Keys, key, permute
from orchestrator.core.words import Span

Ints = NDArray[np.int64]
SHARD_ORDER, SEQUENCE_ORDER, DOCUMENT_ORDER = 1, 2, 3  # what a unit's key is used for


class KeptSamples(Protocol):
    """What the order must know of a manifest: per shard and split, which samples are kept and their tokens."""

    def totals(self, split: str) -> Ints:
        """Tokens of the kept samples, by ordinal."""
        ...

    def kept(self, split: str) -> Ints:
        """Number of kept samples, by ordinal."""
        ...

    def lengths(self, ordinal: int, split: str) -> Ints:
        """Tokens of each kept sample of a shard."""
        ...

    def places(self, ordinal: int, split: str) -> Ints:
        """Place in the shard of each kept sample."""
        ...

    def shard_name(self, ordinal: int) -> str: ...


class Layout(NamedTuple):
    """The documents of one window in stream order."""

    ordinal: NDArray[np.int32]
    place: NDArray[np.int32]
    ends: Ints  # where each document's tokens end in the unit's stream
    begin: int  # where the window's tokens begin

    @property
    def size_bytes(self) -> int:
        return self.ordinal.nbytes + self.place.nbytes + self.ends.nbytes


class LayoutCache:
    """The layouts used last, bounded in bytes. Every lane in use needs one: about 4 MB for 260,000 documents."""

    def __init__(self, limit_bytes: int = 2**30) -> None:
        self._limit_bytes, self._size_bytes = limit_bytes, 0
        self._layouts: OrderedDict[tuple[int, int], Layout] = OrderedDict()
        self._lock = Lock()  # the prefetching thread and its consumer share an order

    def get(self, unit: int, window: int, make: Callable[[], Layout]) -> Layout:
        """The layout of a window of the unit with this key, made if it is not there."""
        with self._lock:
            found = self._layouts.pop((unit, window), None)
            if found is None:
                found = make()
                self._size_bytes += found.size_bytes
            self._layouts[unit, window] = found
            while self._size_bytes > self._limit_bytes and len(self._layouts) > 1:
                self._size_bytes -= self._layouts.popitem(last=False)[1].size_bytes
        return found


class Unit:
    """One pass over `shards` (ordinals). `window` counts tokens when packing, else samples; a window is whole shards.

    `count` sequences (or samples) come out of it. A unit's last sequence alone may be short; a unit of less than two
    tokens has none, since its first token is never a target."""

    def __init__(
        self,
        samples: KeptSamples,
        split: str,
        shards: Ints,
        unit_key: Keys,
        layouts: LayoutCache,
        *,
        seq_len: int | None,
        window: int,
        lanes: int = 1,
        shuffle: bool = True,
    ) -> None:
        self.seq_len, self.lanes = seq_len, lanes
        self._samples, self._split, self._key, self._shuffle, self._layouts = samples, split, unit_key, shuffle, layouts
        self.shards = self._order(shards, key(unit_key, SHARD_ORDER))
        sizes = samples.kept(split) if seq_len is None else samples.totals(split)
        self.ends = np.cumsum(sizes[self.shards])
        self.total = int(self.ends[-1]) if shards.size else 0
        self.count = count_sequences(self.total, seq_len)
        # A window ends with the shard in which a multiple of `window` is reached, or with the unit.
        last = np.flatnonzero(np.diff(self.ends // window, prepend=0))
        if self.total and not (last.size and self.ends[last[-1]] == self.total):
            last = np.append(last, shards.size - 1)
        self._window_shards = np.concatenate([np.zeros(1, np.int64), last + 1])  # window w is shards [w] to [w + 1]
        self.window_ends = self.ends[last]
        begun = self.window_ends if seq_len is None else -(-self.window_ends // seq_len)
        self._sequence_ends = np.minimum(begun, self.count)  # sequences that begin before each window's end

    @property
    def num_windows(self) -> int:
        return int(self.window_ends.size)

    def index(self, turns: Ints) -> tuple[Ints, Ints]:
        """The unit's n-th turns -> index of the sequence (or sample) in stream order, and lane."""
        place, lane = self._lane_place(turns)
        window = np.searchsorted(self._sequence_ends, place, side="right")
        begin = np.concatenate([np.zeros(1, np.int64), self._sequence_ends])[window]
        if not self._shuffle:
            return place, lane
        size = self._sequence_ends[window] - begin
        return begin + permute(place - begin, size, key(self._key, SEQUENCE_ORDER, window)), lane

    def spans(self, index: int) -> list[Span]:
        """What sequence `index` is made of: the documents under its L+1 tokens (fewer at the unit's end)."""
        if self.seq_len is None:
            return [self._sample(index)]
        at = index * self.seq_len
        stop = min(at + self.seq_len + 1, self.total)
        window = int(np.searchsorted(self.window_ends, at, side="right"))
        spans: list[Span] = []
        while at < stop:
            layout = self.layout(window)
            j = int(np.searchsorted(layout.ends, at, side="right"))
            k = int(np.searchsorted(layout.ends, stop, side="left")) + 1
            begin = int(layout.ends[j - 1]) if j else layout.begin
            ordinals, places, ends = layout.ordinal[j:k].tolist(), layout.place[j:k].tolist(), layout.ends[j:k].tolist()
            for ordinal, place, end in zip(ordinals, places, ends, strict=True):
                count = min(stop, end) - at
                spans.append(Span(ordinal, place, at - begin, count))
                at += count
                begin = end
            window += 1
        return spans

    def layout(self, window: int) -> Layout:
        """The documents of a window in stream order (packing only)."""
        return self._layouts.get(int(self._key), window, lambda: self._lay_out(window))

    def _lane_place(self, turns: Ints) -> tuple[Ints, Ints]:
        """Lanes are equal cuts of range(count), the first `rest` of them one longer; each gives one in turn."""
        whole, rest = divmod(self.count, self.lanes)
        full = whole * self.lanes
        lane = np.where(turns < full, turns % self.lanes, turns - full)
        row = np.where(turns < full, turns // self.lanes, whole)
        return lane * whole + np.minimum(lane, rest) + row, lane

    def _order(self, values: Ints, order_key: Keys) -> Ints:
        return values[permute(np.arange(values.size), values.size, order_key)] if self._shuffle else values

    def _sample(self, index: int) -> Span:
        j = int(np.searchsorted(self.ends, index, side="right"))
        ordinal, begin = int(self.shards[j]), int(self.ends[j - 1]) if j else 0
        return Span(ordinal, int(self._samples.places(ordinal, self._split)[index - begin]), 0, 0)

    def _lay_out(self, window: int) -> Layout:
        shards = self.shards[self._window_shards[window] : self._window_shards[window + 1]]
        lengths = [self._samples.lengths(int(ordinal), self._split) for ordinal in shards]
        places = [self._samples.places(int(ordinal), self._split) for ordinal in shards]
        order = self._order(np.arange(sum(map(len, lengths))), key(self._key, DOCUMENT_ORDER, window))
        begin = int(self.window_ends[window - 1]) if window else 0
        ends = begin + np.cumsum(np.concatenate(lengths)[order], dtype=np.int64)
        if ends[-1] != self.window_ends[window]:
            names = [self._samples.shard_name(int(ordinal)) for ordinal in shards[:3]]
            stated = self.window_ends[window] - begin
            raise DataError(
                f"the kept documents of {shards.size} shards have {ends[-1] - begin} tokens, their totals say {stated}",
                where=f"{', '.join(names)}{', ...' if shards.size > 3 else ''}",
                remedy="delete the prepared files under data.work and prepare again",
            )
        owner = np.repeat(shards, [len(part) for part in lengths])
        return Layout(owner[order].astype(np.int32), np.concatenate(places)[order].astype(np.int32), ends, begin)


def count_sequences(total: int, seq_len: int | None) -> int:
    """Sequences in a stream of `total` tokens: every token but the first is a target once."""
    return total if seq_len is None else max(0, -(-(total - 1) // seq_len))
