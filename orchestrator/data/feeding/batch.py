"""What a rank feeds in one step, and who makes it: packed.py or sampled.py, called ahead of time by stream.py.

The ledger's sums are taken from what goes into the model, or from the very bytes that it was decoded from."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.words import Span, World
from orchestrator.data.ordering.ledger import Sums
from orchestrator.data.ordering.order import SlotOrder, Slots
from orchestrator.data.ordering.parts import parts
from orchestrator.data.ordering.skips import Skips
from orchestrator.data.ordering.unit import Ints, SpanTable
from orchestrator.storage.stores import Fetched


class Hole(NamedTuple):
    """A sample whose bytes are the right ones and do not decode. It has weight zero."""

    position: int
    ordinal: int
    place: int
    reason: str


class ReadFigures(NamedTuple):
    """What making a batch took: bytes looked at, seconds of decoding over all workers, blocks of remote shards."""

    read_bytes: int = 0
    decode_s: float = 0.0
    fetched: Fetched = Fetched()

    def __add__(self, other: object) -> "ReadFigures":  # of two figures, not of two tuples
        if not isinstance(other, ReadFigures):
            return NotImplemented
        return ReadFigures(
            self.read_bytes + other.read_bytes, self.decode_s + other.decode_s, self.fetched + other.fetched
        )


@dataclass(frozen=True, kw_only=True)
class RankBatch:
    """What a rank feeds in one step. `fields` have one row for each of `slots`; skipped rows have weight zero.

    With data.mixup `beyond` has one row of each field: the sample after the last slot, which is another rank's."""

    step: int
    fields: dict[str, NDArray[Any]]
    weight: float  # sum of the weights: this rank's part of the loss's denominator
    slots: range  # places in the global batch
    fed: SpanTable  # what the rows are made of; `row` counts from 0
    sums: Sums
    count: int  # rows in the sums
    figures: ReadFigures
    holes: tuple[Hole, ...] = ()  # found now; those that were known are skipped
    beyond: dict[str, NDArray[Any]] = field(default_factory=dict)

    def voided(self) -> "RankBatch":
        """The same step when all of it is left out of the run. What it took to make it and its holes stay known."""
        nothing = SpanTable(*(column[:0] for column in self.fed))
        return replace(self, weight=0.0, fed=nothing, sums=Sums(), count=0)

    @cached_property
    def spans(self) -> list[list[Span]]:
        """By row; empty for a skipped one."""
        rows: list[list[Span]] = [[] for _ in self.slots]
        for row, _, *span in zip(*(column.tolist() for column in self.fed), strict=True):
            rows[row].append(Span(*span))
        return rows


class BatchMaker(Protocol):
    """Makes any step's batch of one split. `make` may be called from several threads."""

    @property
    def workers(self) -> int:
        """Batches that are best made at once."""
        ...

    def make(self, step: int, world: World, skips: Skips) -> RankBatch: ...

    def size_bytes(self, step: int, world: World) -> int:
        """About what the batch takes in memory."""
        ...

    def close(self) -> None: ...


def cut_slots(order: SlotOrder, slots: Slots, rows: Ints) -> SpanTable:
    """The spans of some slots of a batch; those of a row come together and in its order."""
    tables = []
    for source, of_source in parts(slots.source[rows]):
        for unit, of_unit in parts(slots.unit[rows[of_source]]):
            here = rows[of_source[of_unit]]
            table = order.unit(source, unit).cut(slots.index[here])
            tables.append(table._replace(row=here[table.row]))
    if not tables:
        return SpanTable(*np.empty((len(SpanTable._fields), 0), np.int64))
    if len(tables) == 1 and (np.diff(tables[0].row) > 0).all():
        return tables[0]
    columns = [np.concatenate(column) for column in zip(*tables, strict=True)]
    in_order = np.lexsort((columns[1], columns[0]))
    return SpanTable(*(column[in_order] for column in columns))
