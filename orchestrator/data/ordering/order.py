"""The order of all samples of a run, as arithmetic: step -> positions -> (source, unit, index) -> spans.

Comes after the manifest; batch.py cuts a rank's slice from it. Nothing here is state: any step may be asked for in any
process. Changing one bit of the outcome would be another format."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, Self

import numpy as np

from orchestrator.config.data import Phase
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import DataError, NotPrepared
from orchestrator.core.keyed import Keys, key, text_key
from orchestrator.core.words import Span
from orchestrator.data.ordering.mixing import BLOCK, Mixture
from orchestrator.data.ordering.parts import parts
from orchestrator.data.ordering.phases import PhaseTable
from orchestrator.data.ordering.row import Row, Shuffling
from orchestrator.data.ordering.unit import Ints, KeptSamples, LayoutCache, Unit

ORDER_KEY, MIXTURE, ROW = text_key("longhaul order"), 1, 2
POSITIONS_AT_ONCE = 2048  # laid out together: for a few, setting out costs more than the arithmetic


class Dataset(KeptSamples, Protocol):
    """What an order needs of a manifest."""

    @property
    def source_names(self) -> list[str]: ...

    def segments_of(self, source: int) -> list[Ints]:
        """The ordinals of a source, by segment."""
        ...

    @property
    def segments_to_come(self) -> int:
        """How many are still being prepared."""
        ...


@dataclass(frozen=True, slots=True)
class Slots:
    """The slots of one global batch in batch order: neighbours share a lane, and so shards."""

    position: Ints
    source: Ints
    unit: Ints  # number in the source's row
    index: Ints  # sequence (or sample) of the unit, in stream order
    lane: Ints

    def take(self, places: Ints | slice) -> "Slots":
        return Slots(*(column[places] for column in (self.position, self.source, self.unit, self.index, self.lane)))


class Order:
    """Every step's slots and what each slot is made of."""

    def __init__(
        self,
        dataset: Dataset,
        split: str = "train",
        *,
        seed: int,
        weights: list[float],
        global_batch: int,
        seq_len: int | None,
        shuffling: Shuffling,
        phases: list[Phase] | None = None,
    ) -> None:
        order_key = key(ORDER_KEY, seed)
        self.phases = PhaseTable(phases or [], dataset.source_names, weights, global_batch, seq_len)
        used = np.sum([row.quotas for row in self.phases.rows], axis=0) > 0
        layouts = LayoutCache()
        self.rows = {
            source: Row(
                dataset,
                split,
                dataset.segments_of(source),
                key(order_key, ROW, source),
                shuffling,
                layouts,
                self.phases.rows[0].seq_len,
                name,
                dataset.segments_to_come,
            )
            for source, name in enumerate(dataset.source_names)
            if used[source]
        }
        self._mixtures = self._walk_phases(key(order_key, MIXTURE))
        self._batches = lru_cache(2)(self._lay_out_batches)

    @classmethod
    def of(cls, config: RunConfig, dataset: Dataset, split: str = "train") -> Self:
        """The order that a run's config and manifest define."""
        data = config.data
        weights = {source.label: source.weight for source in data.train}
        if set(weights) != set(dataset.source_names):
            raise DataError(
                f"the manifest has the sources {dataset.source_names}, the config names {sorted(weights)}",
                where="data.train",
                remedy="prepare the data again with this config",
            )
        return cls(
            dataset,
            split,
            seed=config.seed,
            weights=[weights[name] for name in dataset.source_names],
            global_batch=config.train.global_batch,
            seq_len=config.packed_len,
            shuffling=Shuffling.of(config),
            phases=data.phases,
        )

    def phase_of(self, step: int) -> int:
        return self.phases.at(step)

    def first_position(self, step: int) -> int:
        return self.phases.first_position(step)

    def batch_size(self, step: int) -> int:
        return self.phases.rows[self.phases.at(step)].global_batch

    def seq_len(self, step: int) -> int | None:
        return self.phases.rows[self.phases.at(step)].seq_len

    def slots(self, step: int) -> Slots:
        """Global batch `step`, in batch order."""
        size = self.batch_size(step)
        steps = self.phases.block_of(step, max(1, POSITIONS_AT_ONCE // size))
        try:
            batches = self._batches(steps)
        except NotPrepared:  # of the steps that follow, perhaps
            steps = range(step, step + 1)
            batches = self._batches(steps)
        begin = (step - steps.start) * size
        return batches.take(slice(begin, begin + size))

    def _lay_out_batches(self, steps: range) -> Slots:
        """The slots of neighbouring steps of one phase, step after step, each in batch order."""
        slots = self.slots_of(steps)
        step = (slots.position - slots.position[0]) // self.batch_size(steps.start)
        return slots.take(np.lexsort((slots.index, slots.unit, slots.source, slots.lane, step)))

    def slots_of(self, steps: range) -> Slots:
        """The slots of neighbouring steps of one phase, by position."""
        first = self.first_position(steps.start)
        position = np.arange(first, first + len(steps) * self.batch_size(steps.start))
        source, row_index = self._mixtures[self.phase_of(steps.start)].choose_source(position)
        unit, index, lane = np.empty_like(position), np.empty_like(position), np.empty_like(position)
        for s, of_source in parts(source):
            row = self.rows[s]
            unit[of_source], turn = row.locate(row_index[of_source])
            for u, of_unit in parts(unit[of_source]):
                index[of_source[of_unit]], lane[of_source[of_unit]] = row.unit(u).index(turn[of_unit])
        return Slots(position, source, unit, index, lane)

    def spans(self, slots: Slots, i: int) -> list[Span]:
        """What slot i of a batch is made of."""
        return self.unit(int(slots.source[i]), int(slots.unit[i])).spans(int(slots.index[i]))

    def unit(self, source: int, number: int) -> Unit:
        return self.rows[source].unit(number)

    def epochs(self, slots: Slots) -> Ints:
        """The pass over its source that each slot belongs to, from 0."""
        epochs = np.empty_like(slots.unit)
        for source, here in parts(slots.source):
            epochs[here] = self.rows[source].epochs_of(slots.unit[here])
        return epochs

    @property
    def is_whole(self) -> bool:
        """Whether all segments are known."""
        return all(row.is_whole for row in self.rows.values())

    @property
    def main_source(self) -> int:
        """The source with the largest share, which epochs are counted by."""
        quotas = self.phases.rows[0].quotas
        return max(self.rows, key=lambda source: quotas[source])

    def epoch_steps(self, source: int) -> float:
        """Steps of the first phase that one pass over a source takes; it may be left out there (infinity)."""
        first = self.phases.rows[0]
        a_step = first.global_batch * first.quotas[source] / BLOCK
        return self.rows[source].epoch_count / a_step if a_step else float("inf")

    def position_of(self, source: int, index: int) -> int | None:
        """The position that takes a place of a source's row; None when the source is left out before."""
        ends = [*(phase.first_position for phase in self.phases.rows[1:]), math.inf]
        for mixture, end in zip(self._mixtures, ends, strict=True):
            if mixture.quotas[source] and (position := mixture.position_of(source, index)) < end:
                return position
        return None

    def row_places(self, step: int) -> dict[int, int]:
        """Where each source stands in its row when a step begins."""
        places = self._mixtures[self.phase_of(step)].row_places(self.first_position(step))
        return {source: int(places[source]) for source in self.rows}

    def _walk_phases(self, mixture_key: Keys) -> list[Mixture]:
        """The mixture of each phase, and in the rows a new stretch where the sequence length changes.

        A phase that keeps the weights keeps the mixture: a batch ramp only cuts the same sequence in other batches."""
        first, *later = self.phases.rows
        mixtures = [Mixture(first.quotas, mixture_key, 0, np.zeros(len(first.quotas), np.int64))]
        seq_len = first.seq_len
        for phase in later:
            mixture = mixtures[-1]
            begun = mixture.row_places(phase.first_position)
            if phase.quotas != mixture.quotas:
                mixture = Mixture(phase.quotas, mixture_key, phase.first_position, begun)
            mixtures.append(mixture)
            if phase.seq_len != seq_len:
                seq_len = phase.seq_len
                for source, row in self.rows.items():
                    row.begin_stretch(int(begun[source]), seq_len)
        return mixtures


class ValidationOrder:
    """All of a split once, in shard order, source after source. Step n is the n-th batch; the last may be smaller."""

    def __init__(self, dataset: Dataset, split: str, *, global_batch: int, seq_len: int | None) -> None:
        self._global_batch, self._seq_len = global_batch, seq_len
        layouts = LayoutCache()
        sizes = dataset.kept(split) if seq_len is None else dataset.totals(split)
        window = max(1, int(sizes.max(initial=0)))  # about a shard is laid out at a time
        self.units = [
            Unit(
                dataset,
                split,
                np.concatenate([np.empty(0, np.int64), *dataset.segments_of(source)]),
                key(ORDER_KEY, source),
                layouts,
                seq_len=seq_len,
                window=window,
                shuffle=False,
            )
            for source in range(len(dataset.source_names))
        ]
        self._ends = np.cumsum([unit.count for unit in self.units])
        self.count = int(self._ends[-1])
        if not self.count:
            raise DataError(
                f"split {split!r} is empty",
                where=f"data.split.{split}",
                remedy="raise it or add data; with prepare.mode ahead the first segment must have some, so raise "
                "data.segment_shards",
            )

    @classmethod
    def of(cls, config: RunConfig, dataset: Dataset, split: str = "validation") -> Self:
        return cls(dataset, split, global_batch=config.train.global_batch, seq_len=config.packed_len)

    @property
    def num_batches(self) -> int:
        return -(-self.count // self._global_batch)

    def batch_size(self, step: int) -> int:
        return min(self._global_batch, self.count - step * self._global_batch)

    def seq_len(self, step: int) -> int | None:  # noqa: ARG002 - an order's sequence length may change; this one's not
        return self._seq_len

    def slots(self, step: int) -> Slots:
        first = step * self._global_batch
        position = np.arange(first, first + self.batch_size(step))
        source = np.searchsorted(self._ends, position, side="right")
        begin = np.concatenate([np.zeros(1, np.int64), self._ends])[source]
        return Slots(position, source, np.zeros_like(position), position - begin, np.zeros_like(position))

    def spans(self, slots: Slots, i: int) -> list[Span]:
        return self.units[int(slots.source[i])].spans(int(slots.index[i]))

    def unit(self, source: int, number: int) -> Unit:  # noqa: ARG002 - a source is one unit
        return self.units[source]

    def epochs(self, slots: Slots) -> Ints:
        return np.zeros_like(slots.unit)


class SlotOrder(Protocol):
    """What fills batches: an Order or a ValidationOrder."""

    def batch_size(self, step: int) -> int: ...
    def seq_len(self, step: int) -> int | None: ...
    def slots(self, step: int) -> Slots: ...
    def spans(self, slots: Slots, i: int) -> list[Span]: ...
    def unit(self, source: int, number: int) -> Unit: ...
    def epochs(self, slots: Slots) -> Ints: ...


def rank_slice(count: int, data_rank: int, data_size: int) -> range:
    """The slots of a batch that a rank feeds: contiguous, sizes differ by at most one."""
    return range(data_rank * count // data_size, (data_rank + 1) * count // data_size)
