"""The proof without training: the ledger made again from config, manifest and skips, and compared with what ranks fed.

Reads tokens straight from the manifest, not through batch.py, so that an error there shows."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from orchestrator.core.words import Span
from orchestrator.data.ledger import Sums, checksum, digest
from orchestrator.data.order import Order, SlotOrder
from orchestrator.data.read import TokenReader
from orchestrator.data.skips import Skips
from orchestrator.data.unit import Ints, Unit


class ShardKeys(Protocol):
    """What readable keys need of a manifest."""

    def shard_name(self, ordinal: int) -> str: ...
    def keys(self, ordinal: int, places: Ints | None = None) -> list[str]: ...


StepSums = tuple[int, Sums, int]  # step, sums, rows in them


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a ledger departs from the run's definition. `what` is the column, `found` None when the row is missing."""

    step: int
    what: str
    expected: str | int
    found: str | int | None

    def __str__(self) -> str:
        found = "there is no row" if self.found is None else f"the ledger says {self.found}"
        return f"step {self.step}: {self.what} must be {self.expected}, {found}"


def recompute(order: SlotOrder, reader: TokenReader, skips: Skips, steps: Iterable[int]) -> Iterator[StepSums]:
    """What the ledger of these steps must say."""
    for step in steps:
        slots = order.slots(step)
        skipped = skips.of(step, slots.position)
        rows = [(int(slots.position[i]), order.spans(slots, i)) for i in range(skipped.size) if not skipped[i]]
        yield step, _digest_rows(rows, reader), len(rows)


def compare_ledger(rows: Iterable[Mapping[str, Any]], expected: Iterable[StepSums]) -> Difference | None:
    """The first difference between rows of ledger.jsonl and what they must be. A step's last row is the truth."""
    found = {row["step"]: row for row in rows if "step" in row}  # the head has none
    for step, sums, count in expected:
        row = found.get(step)
        columns: dict[str, str | int] = {"order_digest": sums.order_hex, "set_digest": sums.set_hex, "count": count}
        for what, value in columns.items():
            if row is None or row.get(what) != value:
                return Difference(step, what, value, None if row is None else row.get(what))
    return None


def unit_set(unit: Unit, reader: TokenReader) -> Sums:
    """The set sum of a whole unit, from its documents in stream order, cut into sequences; order has no part in it."""
    total = Sums()
    for window in range(unit.num_windows):
        layout = unit.layout(window)
        begin = layout.begin
        spans: list[Span] = []
        columns = (layout.ordinal.tolist(), layout.place.tolist(), layout.ends.tolist())
        for ordinal, place, end in zip(*columns, strict=True):
            spans += [Span(ordinal, place, first, count) for first, count in _cut_document(unit, begin, end)]
            begin = end
        sums = digest([0] * len(spans), [0] * len(spans), spans, [checksum(reader.read(span)) for span in spans])
        total += Sums(0, sums.set)
    return total


def epoch_set(order: Order, reader: TokenReader, source: int) -> Sums:
    """The set sum of a source's epoch 0: what the set digests of all its sequences must add up to."""
    units = range(order.rows[source].num_segments)
    return sum((unit_set(order.unit(source, number), reader) for number in units), Sums())


def readable_keys(dataset: ShardKeys, spans_by_slot: Mapping[int, Sequence[Span]]) -> list[list[str | int]]:
    """Spans as people read them, in batch order: [["shard/key", first, count], ...]."""
    spans = [span for slot in sorted(spans_by_slot) for span in spans_by_slot[slot]]
    places: dict[int, list[int]] = {}
    for ordinal, place in sorted({(span.ordinal, span.place) for span in spans}):
        places.setdefault(ordinal, []).append(place)
    names = {
        (ordinal, place): f"{dataset.shard_name(ordinal)}/{key}"
        for ordinal, wanted in places.items()
        for place, key in zip(wanted, dataset.keys(ordinal, np.array(wanted)), strict=True)
    }
    return [[names[span.ordinal, span.place], span.first, span.count] for span in spans]


def _digest_rows(rows: Sequence[tuple[int, Sequence[Span]]], reader: TokenReader) -> Sums:
    positions, starts, spans, checksums = [], [], [], []
    for position, row_spans in rows:
        at = 0
        for span in row_spans:
            positions.append(position)
            starts.append(at)
            spans.append(span)
            checksums.append(checksum(reader.read(span)))
            at += span.count
    return digest(positions, starts, spans, checksums)


def _cut_document(unit: Unit, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """(first, count) of the document at [begin, end) of the stream in each sequence that has tokens of it."""
    if unit.seq_len is None:
        raise ValueError("only packed units are cut into sequences")
    first_sequence = max(0, -(-(begin - unit.seq_len) // unit.seq_len))
    for sequence in range(first_sequence, min(unit.count, -(-end // unit.seq_len))):
        at = sequence * unit.seq_len
        first, stop = max(begin, at), min(end, at + unit.seq_len + 1)
        yield first - begin, stop - first
