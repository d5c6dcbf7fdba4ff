"""A source's endless row of sequences: its units one after another. mixing.py says whose row gives next.

Epoch 0 is one unit a segment, so that training can follow preparation; a later epoch is one unit over all segments."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from orchestrator.core.errors import DataError
from orchestrator.core.keyed import Keys, key
from orchestrator.data.unit import Ints, KeptSamples, LayoutCache, Unit, count_sequences

UNITS_KEPT = 16  # a batch seldom spans more than two units of a source


@dataclass(frozen=True, kw_only=True, slots=True)
class Shuffling:
    """How every unit of a run is laid out."""

    window_samples: int
    lanes: int
    enabled: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """A part of a row with one sequence length: units `first_unit`, `first_unit` + 1, ... from `first_index` on."""

    first_index: int
    first_unit: int
    seq_len: int | None
    ends: Ints  # of its units of epoch 0, counted from the stretch's beginning
    per_epoch: int  # sequences in a unit over all segments


class Row:
    """One source's row. Units are numbered 0, 1, ... over its whole length and built when they are asked for."""

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
    ) -> None:
        self._samples, self._split, self._segments, self._key = samples, split, segments, row_key
        self._shuffling, self._layouts = shuffling, layouts
        sizes = samples.kept(split) if seq_len is None else samples.totals(split)
        self._sizes = [int(sizes[shards].sum()) for shards in segments]
        if not count_sequences(sum(self._sizes), seq_len):
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
        for n in np.unique(number):
            here = number == n
            unit[here], turn[here] = self._locate_in(self._stretches[n], indices[here])
        return unit, turn

    def epoch_of(self, unit: int) -> int:
        return max(0, unit - len(self._segments) + 1)

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
        return int(self._stretches[0].ends[-1])

    @property
    def num_segments(self) -> int:
        """Units of epoch 0."""
        return len(self._segments)

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
        piece = np.searchsorted(ends, begun, side="right") - 1  # the last one stands for all whole epochs
        epochs = np.where(piece == stretch.ends.size, (begun - ends[piece]) // stretch.per_epoch, 0)
        return stretch.first_unit + piece + epochs, begun - ends[piece] - epochs * stretch.per_epoch

    def _make_unit(self, number: int) -> Unit:
        epoch = self.epoch_of(number)
        segment = number if epoch == 0 else 0
        begun = [stretch for stretch in self._stretches if stretch.first_unit <= number]
        seq_len = begun[-1].seq_len
        return Unit(
            self._samples,
            self._split,
            self._segments[segment] if epoch == 0 else np.concatenate(self._segments),
            key(self._key, epoch, segment),
            self._layouts,
            seq_len=seq_len,
            window=self._shuffling.window_samples * (seq_len or 1),
            lanes=self._shuffling.lanes,
            shuffle=self._shuffling.enabled,
        )
