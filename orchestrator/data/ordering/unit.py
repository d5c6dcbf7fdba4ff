"""A unit: one pass over some shards of one source, as arithmetic. row.py strings units together.

Shards in keyed order -> windows -> documents in keyed order -> one token stream -> sequences of L+1 tokens, stride L ->
keyed order inside the window -> equal lanes, taken in turn. Without `seq_len` the kept samples themselves are what is
ordered, in runs of neighbours. Memory is O(shards); only the windows in use are laid out."""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.errors import DataError
from orchestrator.core.keyed import Keys, key, permute
from orchestrator.core.words import Span
from orchestrator.data.ordering.parts import parts

Ints = NDArray[np.int64]
Unsigned = NDArray[np.unsignedinteger[Any]]
SHARD_ORDER, SEQUENCE_ORDER, DOCUMENT_ORDER, REST_PLACE = 1, 2, 3, 4  # what a unit's key is used for


class KeptSamples(Protocol):
    """What the order must know of a manifest: per shard and split, which samples are kept and their tokens."""

    def totals(self, split: str) -> Ints:
        """Tokens of the kept samples, by ordinal."""
        ...

    def kept(self, split: str) -> Ints:
        """Number of kept samples, by ordinal."""
        ...

    def sizes(self, split: str) -> Ints:
        """Bytes that are read of the kept samples, by ordinal; asked for when they are fed as they are."""
        ...

    def lengths(self, ordinal: int, split: str) -> Ints:
        """Tokens of each kept sample of a shard."""
        ...

    def places(self, ordinal: int, split: str) -> Ints:
        """Place in the shard of each kept sample."""
        ...

    def shard_name(self, ordinal: int) -> str: ...


class Layout(NamedTuple):
    """The documents (or samples) of one window in stream order, in as few bytes as hold them."""

    shards: Ints  # ordinals of the window's shards
    shard: Unsigned  # which of them each document is of
    place: Unsigned
    ends: Unsigned  # where each document's tokens end, counted from the window's first one; empty of samples
    begin: int  # where the window begins in the unit's stream

    @property
    def size_bytes(self) -> int:
        return sum(column.nbytes for column in self[:-1])

    def find(self, number: Ints) -> tuple[Ints, Ints]:
        """Ordinal and place of the window's n-th documents."""
        return self.shards[self.shard[number]], self.place[number].astype(np.int64)


class SpanTable(NamedTuple):
    """The spans of many sequences as columns; those of one sequence come in its order."""

    row: Ints  # which of the sequences asked for
    start: Ints  # at which token of the sequence the span begins
    ordinal: Ints
    place: Ints
    first: Ints
    count: Ints  # type: ignore[assignment]  # a field, not the tuple's method


class LayoutCache:
    """The layouts used last, bounded in bytes. Every lane in use needs one: about 2 MB for 260,000 documents."""

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
    tokens has none, since its first token is never a target. `window_bytes` limits windows of samples; `run_len`
    neighbours stay together when a window is permuted."""

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
        window_bytes: int | None = None,
        run_len: int = 1,
        lanes: int = 1,
        shuffle: bool = True,
    ) -> None:
        self.seq_len, self.run_len, self.lanes = seq_len, run_len, lanes
        self._samples, self._split, self._key, self._shuffle, self._layouts = samples, split, unit_key, shuffle, layouts
        self.shards = self._order(shards, key(unit_key, SHARD_ORDER))
        sizes = samples.kept(split) if seq_len is None else samples.totals(split)
        self.ends = np.cumsum(sizes[self.shards])
        self.total = int(self.ends[-1]) if shards.size else 0
        self.count = count_sequences(self.total, seq_len)
        # A window ends with the shard in which a multiple of `window` or `window_bytes` is reached, or with the unit.
        full = _passes_multiple(self.ends, window)
        if window_bytes is not None:
            full |= _passes_multiple(np.cumsum(samples.sizes(split)[self.shards]), window_bytes)
        last = np.flatnonzero(full)
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
        rest_place = key(self._key, REST_PLACE, window)
        return begin + permute_runs(
            place - begin, size, self.run_len, key(self._key, SEQUENCE_ORDER, window), rest_place
        ), lane

    def locate(self, indices: Ints) -> tuple[Ints, Ints]:
        """Indices of samples -> ordinal of the shard, and which of the shard's kept samples."""
        shard = np.searchsorted(self.ends, indices, side="right")
        return self.shards[shard], indices - np.concatenate([np.zeros(1, np.int64), self.ends])[shard]

    def spans(self, index: int) -> list[Span]:
        """What sequence `index` is made of: the documents under its L+1 tokens (fewer at the unit's end)."""
        table = self.cut(np.array([index]))
        return list(map(Span._make, zip(*(column.tolist() for column in table[2:]), strict=True)))

    def cut(self, indices: Ints) -> SpanTable:
        """The spans of many sequences (or samples) at once."""
        if self.seq_len is None:
            return self._pick_samples(indices)
        at = indices * self.seq_len
        stop = np.minimum(at + self.seq_len + 1, self.total)
        begins_in = np.searchsorted(self.window_ends, at, side="right")
        ends_in = np.searchsorted(self.window_ends, stop, side="left")
        tables = []
        for window in _distinct(begins_in, ends_in):
            rows = np.flatnonzero((begins_in <= window) & (window <= ends_in))
            rows = rows[np.argsort(at[rows])]  # to search in the stream's order goes easy on the memory
            tables.append(_cut_window(self.layout(window), rows, at[rows], stop[rows]))
        return SpanTable(*map(np.concatenate, zip(*tables, strict=True)))

    def layout(self, window: int) -> Layout:
        """The documents (or samples) of a window in stream order."""
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

    def _pick_samples(self, indices: Ints) -> SpanTable:
        ordinal, place, none = np.empty_like(indices), np.empty_like(indices), np.zeros_like(indices)
        for window, here in parts(np.searchsorted(self.window_ends, indices, side="right")):
            layout = self.layout(window)
            ordinal[here], place[here] = layout.find(indices[here] - layout.begin)
        return SpanTable(np.arange(indices.size), none, ordinal, place, none, none)

    def _lay_out(self, window: int) -> Layout:
        shards = self.shards[self._window_shards[window] : self._window_shards[window + 1]]
        begin = int(self.window_ends[window - 1]) if window else 0
        places = [self._samples.places(int(ordinal), self._split) for ordinal in shards]
        place, shard = np.concatenate(places), np.repeat(np.arange(shards.size), list(map(len, places)))
        if self.seq_len is None:
            ends, size = np.empty(0, np.int64), place.size
        else:
            lengths = [self._samples.lengths(int(ordinal), self._split) for ordinal in shards]
            order = self._order(np.arange(place.size), key(self._key, DOCUMENT_ORDER, window))
            ends = np.cumsum(np.concatenate(lengths)[order], dtype=np.int64)
            place, shard, size = place[order], shard[order], int(ends[-1])
        stated = int(self.window_ends[window]) - begin
        if size != stated:
            names = [self._samples.shard_name(int(ordinal)) for ordinal in shards[:3]]
            unit = "samples" if self.seq_len is None else "tokens"
            raise DataError(
                f"the kept documents of {shards.size} shards have {size} {unit}, their totals say {stated}",
                where=f"{', '.join(names)}{', ...' if shards.size > 3 else ''}",
                remedy="delete the prepared files under data.work and prepare again",
            )
        return Layout(shards, _narrow(shard), _narrow(place), _narrow(ends), begin)


def count_sequences(total: int, seq_len: int | None) -> int:
    """Sequences in a stream of `total` tokens: every token but the first is a target once."""
    return total if seq_len is None else max(0, -(-(total - 1) // seq_len))


def permute_runs(place: Ints, size: Ints, run_len: int, run_key: Keys, rest_key: Keys) -> Ints:
    """The permutation of range(size) that moves runs of `run_len` neighbours; sizes and keys may differ by element.

    What is left over and fills no run is a shorter run, at a keyed place of its own among the others: were it always
    the last, a window would always end with its last shard."""
    if run_len == 1:
        return permute(place, size, run_key)
    num_runs, rest = np.divmod(size, run_len)
    rest_begin = (rest_key % (num_runs + 1).astype(np.uint64)).astype(np.int64) * run_len
    in_rest = (rest_begin <= place) & (place < rest_begin + rest)
    before = np.where(place < rest_begin, place, place - rest)  # places among whole runs
    run, inside = np.divmod(np.where(in_rest, 0, before), run_len)
    moved = permute(run, np.maximum(num_runs, 1), run_key) * run_len + inside
    return np.where(in_rest, num_runs * run_len + place - rest_begin, moved)


def _passes_multiple(ends: Ints, limit: int) -> NDArray[np.bool_]:
    return np.diff(ends // limit, prepend=0) > 0


def _cut_window(layout: Layout, rows: Ints, at: Ints, stop: Ints) -> SpanTable:
    """The part of the stretches [at, stop) of the stream that lies in a window."""
    at, stop = at - layout.begin, stop - layout.begin
    kind = layout.ends.dtype  # searching with another one would widen all of them
    j = np.searchsorted(layout.ends, np.maximum(at, 0).astype(kind), side="right")
    last = np.minimum(stop, layout.ends[-1])
    k = np.where(stop > last, layout.ends.size, np.searchsorted(layout.ends, last.astype(kind), side="left") + 1)
    which, document = expand(j, k)
    end = layout.ends[document].astype(np.int64)
    begin = np.where(document > 0, layout.ends[document - 1].astype(np.int64), 0)
    first, last = np.maximum(begin, at[which]), np.minimum(end, stop[which])
    return SpanTable(rows[which], first - at[which], *layout.find(document), first - begin, last - first)


def _narrow(values: Ints) -> Unsigned:
    """In as few bytes as hold the largest."""
    return values.astype(np.min_scalar_type(values.max(initial=0)))


def expand(begins: Ints, ends: Ints) -> tuple[Ints, Ints]:
    """All n with begins[i] <= n < ends[i], range after range: (i, n)."""
    sizes = np.maximum(ends - begins, 0)
    which = np.repeat(np.arange(sizes.size), sizes)
    return which, np.arange(which.size) + (begins - np.cumsum(sizes) + sizes)[which]


def _distinct(first: Ints, last: Ints) -> list[int]:
    """All whole numbers in any of the ranges from first[i] to last[i], both included."""
    changes = np.zeros(int(last.max()) - int(first.min()) + 2, np.int64)
    np.add.at(changes, first - first.min(), 1)
    np.add.at(changes, last - first.min() + 1, -1)
    return [int(value) for value in np.flatnonzero(np.cumsum(changes)) + first.min()]
