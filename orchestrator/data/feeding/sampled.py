"""Batches of samples as they are: read, decoded, transformed, stacked. Comes after samples.py and fields.py; stream.py
makes them ahead of time.

A batch is cut into parts that several threads read and decode, so that the first batch after a start is as fast as any.
The ledger's sums are taken from the checksums of the very bytes that were decoded."""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate, chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.words import World
from orchestrator.data.decoding.draws import sample_keys
from orchestrator.data.decoding.fields import TransformFailed
from orchestrator.data.decoding.stack import stack_values
from orchestrator.data.decoding.workers import Decoders
from orchestrator.data.feeding.batch import Hole, RankBatch, ReadFigures, cut_slots
from orchestrator.data.feeding.samples import SampleReader
from orchestrator.data.feeding.threads import Threads
from orchestrator.data.ordering.ledger import Sums, digest_groups
from orchestrator.data.ordering.order import SlotOrder, Slots, rank_slice
from orchestrator.data.ordering.skips import Skips
from orchestrator.data.ordering.unit import Ints, SpanTable

PARTS_PER_THREAD = 4  # who is done early takes another one
SAMPLE_BYTES = 2**20  # guessed of a sample in a batch, until there has been one


class Part(NamedTuple):
    """Some samples, read and decoded: values by field, None where a sample is a hole; and why it is one, by number."""

    columns: dict[str, list[Any]]
    holes: dict[int, str]
    checksums: NDArray[np.uint64]
    figures: ReadFigures


class SampledBatches:
    """The fields of the config, each [n, ...], `weights` [n], and `draw_keys` [n] for augmentation on the device.

    A row that is skipped or a hole has weight zero and is a copy of the rank's first good one, or of the batch's. With
    `beyond` the sample after the rank's last one is read too: it counts nowhere but in the bytes read."""

    def __init__(
        self,
        order: SlotOrder,
        reader: SampleReader,
        decoders: Decoders,
        *,
        seed: int,
        threads: int = 1,
        beyond: bool = False,
    ) -> None:
        self.workers = min(2, threads)  # while one batch is put together, parts of the next are under way
        self._order, self._reader, self._decoders, self._seed = order, reader, decoders, seed
        self._num_parts = threads * PARTS_PER_THREAD if threads > 1 else 1
        self._threads = Threads(threads, "decode")
        self._wants_beyond = beyond
        self._sample_bytes = SAMPLE_BYTES

    def make(self, step: int, world: World, skips: Skips) -> RankBatch:
        """Rank's slice of global batch `step`."""
        slots = self._order.slots(step)
        mine = rank_slice(slots.position.size, world.data_rank, world.data_size)
        skipped = skips.of(step, slots.position)
        fed = cut_slots(self._order, slots, np.flatnonzero(~skipped[mine.start : mine.stop]) + mine.start)
        positions, keys = slots.position[fed.row], self._draw_keys(slots, fed)
        read = self._read(fed, keys)
        good = np.delete(np.arange(fed.row.size), list(read.holes))
        rows = fed.row[good] - mine.start
        values = self._stack(read.columns, fed, good) if good.size else self._example(slots, skipped)
        fields = spread(values, rows, len(mine))
        if good.size:
            self._sample_bytes = weigh_sample(fields, read.figures)
        fields["weights"], fields["draw_keys"] = np.zeros(len(mine), np.float32), np.zeros(len(mine), np.uint64)
        fields["weights"][rows], fields["draw_keys"][rows] = 1, keys[good]
        holes = [Hole(int(positions[n]), int(fed.ordinal[n]), int(fed.place[n]), why) for n, why in read.holes.items()]
        beyond, more = self._beyond(slots, mine, skipped, fields) if self._wants_beyond else ({}, ReadFigures())
        fed = SpanTable(*(column[good] for column in fed))
        return RankBatch(
            step=step,
            fields=fields,
            weight=float(good.size),
            slots=mine,
            fed=fed._replace(row=rows),
            sums=digest_samples(positions[good], fed, read.checksums[good]),
            count=good.size,
            figures=read.figures + more,
            holes=tuple(holes),
            beyond=beyond,
        )

    def size_bytes(self, step: int, world: World) -> int:
        rows = len(rank_slice(self._order.batch_size(step), world.data_rank, world.data_size))
        return rows * self._sample_bytes

    def close(self) -> None:
        self._threads.close()
        self._decoders.close()

    def _draw_keys(self, slots: Slots, fed: SpanTable) -> NDArray[np.uint64]:
        return sample_keys(self._seed, self._order.epochs(slots)[fed.row], fed.ordinal, fed.place)

    def _read(self, fed: SpanTable, keys: NDArray[np.uint64]) -> Part:
        """All samples of `fed`, by as many threads as there are."""
        size = fed.row.size
        cuts = [rank_slice(size, n, self._num_parts) for n in range(self._num_parts)]
        parts = [
            (fed.ordinal[cut.start : cut.stop], fed.place[cut.start : cut.stop], keys[cut.start : cut.stop])
            for cut in cuts
            if len(cut)
        ]
        if len(parts) < 2:
            return self._read_part(fed.ordinal, fed.place, keys)
        return join_parts(list(self._threads.map(self._read_part, *zip(*parts, strict=True))))

    def _read_part(self, ordinal: Ints, place: Ints, keys: NDArray[np.uint64]) -> Part:
        pieces: list[Part] = []
        done = 0
        for raw in self._reader.read_pieces(ordinal, place):
            members = dict(zip(self._reader.fields, zip(raw.suffixes, raw.views, strict=True), strict=True))
            try:
                columns, holes, seconds = self._decoders.decode(members, keys[done : done + len(raw.checksums)])
            except TransformFailed as error:
                error.where = f"{error.where}, sample {self._name(ordinal, place, done + error.row)}"
                raise
            pieces.append(Part(columns, holes, raw.checksums, ReadFigures(raw.read_bytes, seconds, raw.fetched)))
            done += len(raw.checksums)
        return join_parts(pieces)

    def _name(self, ordinal: Ints, place: Ints, row: int) -> str:
        return self._reader.name(int(ordinal[row]), int(place[row]))

    def _stack(self, columns: dict[str, list[Any]], fed: SpanTable, good: Ints) -> dict[str, NDArray[Any]]:
        name = partial(self._name, fed.ordinal[good], fed.place[good])
        if good.size < fed.row.size:
            columns = {field: [column[n] for n in good.tolist()] for field, column in columns.items()}
        return {field: stack_values(field, column, name) for field, column in columns.items()}

    def _example(self, slots: Slots, skipped: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
        """One good sample of the global batch, for a rank that has none; nothing if the whole batch has none: such a
        step is void, and nobody looks at its fields."""
        for slot in np.flatnonzero(~skipped).tolist():
            fed, _, read = self._read_slot(slots, slot)
            if not read.holes:
                return self._stack(read.columns, fed, np.zeros(1, np.int64))
        return {}

    def _beyond(
        self, slots: Slots, mine: range, skipped: NDArray[np.bool_], fields: dict[str, NDArray[Any]]
    ) -> tuple[dict[str, NDArray[Any]], ReadFigures]:
        """The row after the last one of `mine`; the batch is a ring. One that is no good is a copy without weight."""
        slot = mine.stop % skipped.size
        row = slot - mine.start if slot in mine else 0
        near = {name: column[row : row + 1] for name, column in fields.items()}
        if slot in mine or not len(mine):
            return near, ReadFigures()
        none: dict[str, NDArray[Any]] = {"weights": np.zeros(1, np.float32), "draw_keys": np.zeros(1, np.uint64)}
        if skipped[slot]:
            return near | none, ReadFigures()
        fed, key, read = self._read_slot(slots, slot)
        if read.holes:
            return near | none, read.figures
        names = ("a sample of its batch", self._name(fed.ordinal, fed.place, 0))
        # Stacked with another one, since it must be like it.
        values = {
            name: stack_values(name, [near[name][0], *read.columns[name]], names.__getitem__) for name in read.columns
        }
        beyond = {name: column[1:] for name, column in values.items()}
        return beyond | {"weights": np.ones(1, np.float32), "draw_keys": key}, read.figures

    def _read_slot(self, slots: Slots, slot: int) -> tuple[SpanTable, NDArray[np.uint64], Part]:
        """One sample of the global batch: what it is, the key that it draws under, and what was read."""
        fed = cut_slots(self._order, slots, np.array([slot]))
        key = self._draw_keys(slots, fed)
        return fed, key, self._read(fed, key)


def spread(values: dict[str, NDArray[Any]], rows: Ints, num_rows: int) -> dict[str, NDArray[Any]]:
    """The values at their rows of a batch; the other rows are copies of the first value."""
    if 0 < rows.size == num_rows:
        return dict(values)
    value_of = np.zeros(num_rows, np.int64)
    value_of[rows] = np.arange(rows.size)
    return {name: column[value_of] for name, column in values.items()}


def weigh_sample(fields: dict[str, NDArray[Any]], figures: ReadFigures) -> int:
    """About what a sample takes in a batch; texts and the like are taken to be as large as their members."""
    columns = fields.values()
    size_bytes = sum(column.nbytes for column in columns if column.dtype != object)
    size_bytes += figures.read_bytes if any(column.dtype == object for column in columns) else 0
    return max(1, size_bytes // max(len(column) for column in columns))


def join_parts(parts: Sequence[Part]) -> Part:
    """Parts one after another. A part of holes alone does not know what fields come of transforms."""
    begins = list(accumulate((len(part.checksums) for part in parts), initial=0))
    names = next((part.columns for part in parts if len(part.holes) < len(part.checksums)), parts[0].columns)
    columns = {
        name: list(chain.from_iterable(part.columns.get(name, [None] * len(part.checksums)) for part in parts))
        for name in names
    }
    return Part(
        columns,
        {begin + n: reason for part, begin in zip(parts, begins, strict=False) for n, reason in part.holes.items()},
        np.concatenate([part.checksums for part in parts]),
        sum((part.figures for part in parts), ReadFigures()),
    )


def digest_samples(positions: Ints, fed: SpanTable, checksums: NDArray[np.uint64]) -> Sums:
    """The ledger's sums over samples: each is one span from the beginning of its slot."""
    if not positions.size:
        return Sums()
    groups = np.zeros(positions.size, np.int64)
    return Sums.from_limbs(digest_groups(groups, 1, [positions, fed.start], fed[2:], checksums)[0].tolist())
