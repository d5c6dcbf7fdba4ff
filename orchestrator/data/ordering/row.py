"""A source's endless row of sequences: its units one after another. mixing.py says whose row gives next.

Epoch 0 is one unit a segment, so that training can follow preparation; a later epoch is one unit over all segments."""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal, Self

import numpy as np

from orchestrator.config.run import RunConfig
from orchestrator.core.errors import DataError, NotPrepared
from orchestrator.core.keyed import Keys, key
from orchestrator.data.ordering.parts import parts
from orchestrator.data.ordering.unit import Ints, KeptSamples, LayoutCache, Unit, count_sequences

UNITS_KEPT = 4  # a batch seldom spans more than two units of a source; one of 10^6 shards takes 17 MB
MOST_LANES = 128
SHARDS_PER_LANE = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Shuffling:
    """How every unit of a run is laid out. Packing knows no `window_bytes` and no runs."""

    window_samples: int
    window_bytes: int = 2**31
    run_samples: int = 1
    lanes: int | Literal["auto"] = "auto"
    enabled: bool = True

    @classmethod
    def of(cls, config: RunConfig) -> Self:
        """What a config asks for, once config/resolve.py has decided."""
        data = config.data
        if data.run_samples == "auto" and config.packed_len is None:
            raise ValueError("data.run_samples is decided by config/resolve.py before there is an order")
        return cls(
            window_samples=data.window_samples,
            window_bytes=data.window_bytes,
            run_samples=1 if data.run_samples == "auto" else data.run_samples,
            lanes=data.lanes,
            enabled=data.shuffle,
        )

    def lanes_of(self, num_shards: int) -> int:
        """The lanes of a unit of so many shards: as many as leave every lane some shards of its own."""
        if self.lanes != "auto":
            return self.lanes
        lanes = 1
        while self.enabled and lanes < MOST_LANES and lanes * 2 * SHARDS_PER_LANE <= num_shards:
            lanes *= 2
        return lanes


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """A part of a row with one sequence length: units `first_unit`, `first_unit` + 1, ... from `first_index` on."""

    first_index: int
    first_unit: int
    seq_len: int | None
    ends: Ints  # of its units of epoch 0, counted from the stretch's beginning
    per_epoch: int  # sequences in a unit over all segments


class Row:
    """One source's row. Units are numbered 0, 1, ... over its whole length and built when they are asked for.

    While segments are to come, it answers for the units there are, as it will then, and says NotPrepared beyond."""

    def __init__(
        self,
        samples: KeptSamples,
        split: str,
        segments: list[Ints],
        row_key: Keys,
        shuffling: Shuffling,
        layouts: LayoutCache,
        seq_len: int | None,
        name: str,
        to_come: int = 0,
    ) -> None:
        self._name, self._to_come = name, to_come
        self._samples, self._split, self._segments, self._key = samples, split, segments, row_key
        self._shuffling, self._layouts = shuffling, layouts
        sizes = samples.kept(split) if seq_len is None else samples.totals(split)
        self._sizes = [int(sizes[shards].sum()) for shards in segments]
        if not to_come and not count_sequences(sum(self._sizes), seq_len):
            raise DataError(
                f"source {name!r} has no {'sample' if seq_len is None else 'token to predict'} in split {split!r}",
                remedy="check data.train and data.split, or leave the source out",
            )
        self._stretches = [self._stretch(0, 0, seq_len)]
        self.unit = lru_cache(UNITS_KEPT)(self._make_unit)

    def begin_stretch(self, index: int, seq_len: int | None) -> None:
        """From `index` on (not before the last stretch) with another sequence length: a new unit begins there.

        What is left of the unit that stood there is passed over."""
        unit, turn = self.locate(np.array([index]))
        stretch = self._stretch(index, int(unit[0]) + bool(turn[0]), seq_len)
        self._stretches = [*(old for old in self._stretches if old.first_index < index), stretch]

    def locate(self, indices: Ints) -> tuple[Ints, Ints]:
        """Index in the row -> number of the unit, and turn inside it."""
        unit, turn = np.empty_like(indices), np.empty_like(indices)
        number = np.searchsorted([stretch.first_index for stretch in self._stretches], indices, side="right") - 1
        for n, here in parts(number):
            unit[here], turn[here] = self._locate_in(self._stretches[n], indices[here])
        return unit, turn

    def index_after(self, epochs: float) -> int:
        """Where the row stands when so many passes are over; a part of a pass is rounded up to whole sequences."""
        self._need_all()
        whole, part = divmod(Fraction(str(epochs)), 1)  # 2.1 passes are a tenth of the third, not a little more
        begin = self._end_of(self.units_of(whole - 1)[-1]) if whole else 0
        return begin + math.ceil(part * (self._end_of(self.units_of(whole)[-1]) - begin))

    def count_targets(self, index: int) -> int:
        """Tokens that are targets in the first `index` sequences, at least (packing only).

        A unit's short sequence may come at any turn of its last window; it counts from the unit's first turn on."""
        stops = [*(stretch.first_index for stretch in self._stretches[1:]), index]
        begun = [
            (stretch, min(stop, index) - stretch.first_index)
            for stretch, stop in zip(self._stretches, stops, strict=True)
        ]
        return sum(self._count_targets_in(stretch, sequences) for stretch, sequences in begun if sequences > 0)

    def epoch_of(self, unit: int) -> int:
        return int(self.epochs_of(np.array(unit)))

    def epochs_of(self, units: Ints) -> Ints:
        """The pass that each of these units belongs to, from 0."""
        return np.maximum(0, units - self.num_segments + 1)

    def units_of(self, epoch: int) -> range:
        """The numbers of an epoch's units."""
        return (
            range(len(self._segments))
            if epoch == 0
            else range(self.num_segments + epoch - 1, self.num_segments + epoch)
        )

    @property
    def epoch_count(self) -> int:
        """Sequences (samples) in epoch 0, at the first sequence length."""
        self._need_all()
        return int(self._stretches[0].ends[-1])

    @property
    def num_segments(self) -> int:
        """Units of epoch 0 that are there."""
        return len(self._segments)

    @property
    def is_whole(self) -> bool:
        """Whether all segments are there."""
        return not self._to_come

    def _need_all(self) -> None:
        if self._to_come:
            raise self._not_prepared()

    def _not_prepared(self) -> NotPrepared:
        there = self.num_segments
        return NotPrepared(
            f"segment {there} of {there + self._to_come} is not prepared yet", where=f"source {self._name!r}"
        )

    def _stretch(self, first_index: int, first_unit: int, seq_len: int | None) -> Stretch:
        counts = [count_sequences(size, seq_len) for size in self._sizes[first_unit:]]
        return Stretch(
            first_index=first_index,
            first_unit=first_unit,
            seq_len=seq_len,
            ends=np.cumsum([0, *counts])[1:],
            per_epoch=count_sequences(sum(self._sizes), seq_len),
        )

    def _locate_in(self, stretch: Stretch, indices: Ints) -> tuple[Ints, Ints]:
        ends = np.concatenate([np.zeros(1, np.int64), stretch.ends])
        begun = indices - stretch.first_index
        if (begun >= ends[-1]).any():
            self._need_all()
        piece = np.searchsorted(ends, begun, side="right") - 1  # the last one stands for all whole epochs
        epochs = np.where(piece == stretch.ends.size, (begun - ends[piece]) // stretch.per_epoch, 0)
        return stretch.first_unit + piece + epochs, begun - ends[piece] - epochs * stretch.per_epoch

    def _end_of(self, number: int) -> int:
        """Where the row stands when a unit is over; another sequence length may end it early."""
        n = max(n for n, stretch in enumerate(self._stretches) if stretch.first_unit <= number)
        stretch = self._stretches[n]
        later = max(0, number + 1 - max(self.num_segments, stretch.first_unit))  # units over all segments
        own = stretch.ends[: number + 1 - stretch.first_unit]
        end = stretch.first_index + (int(own[-1]) if own.size else 0) + later * stretch.per_epoch
        return min([end, *(after.first_index for after in self._stretches[n + 1 :])])

    def _count_targets_in(self, stretch: Stretch, sequences: int) -> int:
        if stretch.seq_len is None:
            raise ValueError("only packed sequences have targets")
        last = int(self._locate_in(stretch, np.array([stretch.first_index + sequences - 1]))[0][0])
        later = max(0, last + 1 - max(self.num_segments, stretch.first_unit))
        sizes = [*self._sizes[stretch.first_unit : last + 1], *[sum(self._sizes)] * later]
        short = sum(count_sequences(size, stretch.seq_len) * stretch.seq_len - max(0, size - 1) for size in sizes)
        return sequences * stretch.seq_len - short

    def _make_unit(self, number: int) -> Unit:
        if number >= self.num_segments:
            self._need_all()
        epoch = self.epoch_of(number)
        segment = number if epoch == 0 else 0
        begun = [stretch for stretch in self._stretches if stretch.first_unit <= number]
        seq_len, shuffling = begun[-1].seq_len, self._shuffling
        shards = self._segments[segment] if epoch == 0 else np.concatenate(self._segments)
        packed = seq_len is not None
        return Unit(
            self._samples,
            self._split,
            shards,
            key(self._key, epoch, segment),
            self._layouts,
            seq_len=seq_len,
            window=shuffling.window_samples * (seq_len or 1),
            window_bytes=None if packed else shuffling.window_bytes,
            run_len=1 if packed else shuffling.run_samples,
            lanes=shuffling.lanes_of(shards.size),
            shuffle=shuffling.enabled,
        )
