"""The proof without training: the ledger made again from config, manifest and skips, and compared with what ranks fed.

Reads tokens straight from the manifest, not through batch.py, so that an error there shows."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from orchestrator.core.words import Span
from orchestrator.data.ledger import NUM_LIMBS, Sums, digest_groups
from orchestrator.data.order import Order, parts
from orchestrator.data.read import TokenReader
from orchestrator.data.skips import Skips
from orchestrator.data.unit import Ints, Unit, expand

POSITIONS_AT_ONCE = 2**17  # laid out together, in about 100 MB
DOCUMENTS_AT_ONCE = 2**14


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


class FedUnits:
    """What a run has taken of every unit so far, skipped sequences too. Kept by unit, so it stays small."""

    def __init__(self) -> None:
        self.rows: Counter[tuple[int, int]] = Counter()  # by source and unit
        self.sets: defaultdict[tuple[int, int], Sums] = defaultdict(Sums)

    def add(self, unit: tuple[int, int], rows: int, sums: Sums) -> None:
        self.rows[unit] += rows
        self.sets[unit] += Sums(0, sums.set)


@dataclass(frozen=True, slots=True)
class EpochProof:
    """A whole pass over a source: whether what the steps took adds up to all of its documents, each once."""

    source: int
    epoch: int
    rows: int
    holds: bool


def recompute(
    order: Order, reader: TokenReader, skips: Skips, steps: Iterable[int], fed: FedUnits | None = None
) -> Iterator[StepSums]:
    """What the ledger of these steps must say. `fed` is told what they take."""
    touched = skips.voided | {step for step, _ in skips.holes}
    for block in _join_steps(order, steps):
        first, size, slots = order.first_position(block.start), order.batch_size(block.start), order.slots_of(block)
        number = (slots.position - first) // size
        skipped = np.zeros(number.size, bool)
        for step in touched & set(block) if touched else ():
            here = slice((step - block.start) * size, (step - block.start + 1) * size)
            skipped[here] = skips.of(step, slots.position[here])
        counts = size - np.bincount(number[skipped], minlength=len(block))
        limbs = np.zeros((len(block), 2 * NUM_LIMBS), np.uint64)
        for source, of_source in parts(slots.source):
            for unit, of_unit in parts(slots.unit[of_source]):
                rows = of_source[of_unit]
                low, high = int(number[rows[0]]), int(number[rows[-1]]) + 1  # positions rise, and so do steps
                groups = np.where(skipped[rows], high, number[rows]) - low  # what is skipped is a group of its own
                table = order.unit(source, unit).cut(slots.index[rows])
                place = [slots.position[rows][table.row], table.start]
                span = table[2:]
                found = digest_groups(groups[table.row], high - low + 1, place, span, reader.checksums(*span))
                limbs[low:high] += found[:-1]
                if fed is not None:
                    fed.add((source, unit), rows.size, Sums.from_limbs(found.sum(axis=0).tolist()))
        for step, sums, count in zip(block, limbs.tolist(), counts.tolist(), strict=True):
            yield step, Sums.from_limbs(sums), count


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
    """The set sum of a whole unit, from its documents in file order, cut into sequences; order has no part in it."""
    total = Sums()
    for window in range(unit.num_windows):
        layout = unit.layout(window)
        begins = np.concatenate([[layout.begin], layout.ends[:-1]])
        in_file = np.lexsort((layout.place, layout.ordinal))
        for at in range(0, in_file.size, DOCUMENTS_AT_ONCE):
            some = in_file[at : at + DOCUMENTS_AT_ONCE]
            document, first, count = _cut_documents(unit, begins[some], layout.ends[some])
            ids = (layout.ordinal[some].astype(np.int64), layout.place[some].astype(np.int64))
            span = (*(column[document] for column in ids), first, count)
            none = np.zeros_like(first)
            limbs = digest_groups(none, 1, [none, none], span, reader.checksums(*span))
            total += Sums(0, Sums.from_limbs(limbs[0].tolist()).set)
    return total


def epoch_set(order: Order, reader: TokenReader, source: int) -> Sums:
    """The set sum of a source's epoch 0: what the set digests of all its sequences must add up to."""
    units = range(order.rows[source].num_segments)
    return sum((unit_set(order.unit(source, number), reader) for number in units), Sums())


def prove_epochs(order: Order, reader: TokenReader, fed: FedUnits) -> Iterator[EpochProof]:
    """Every epoch that was taken whole, source after source."""
    for source, row in order.rows.items():
        last = max((row.epoch_of(unit) for of, unit in fed.rows if of == source), default=-1)
        for epoch in range(last + 1):
            units = row.units_of(epoch)
            if any(fed.rows[source, unit] != order.unit(source, unit).count for unit in units):
                continue  # still under way, or cut off by another sequence length
            taken = sum((fed.sets[source, unit] for unit in units), Sums())
            expected = sum((unit_set(order.unit(source, unit), reader) for unit in units), Sums())
            yield EpochProof(source, epoch, sum(fed.rows[source, unit] for unit in units), taken == expected)


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


def _join_steps(order: Order, steps: Iterable[int]) -> Iterator[range]:
    """Neighbours of one phase together, as many as POSITIONS_AT_ONCE allow, and always one."""
    block = range(0)
    for step in steps:
        fits = len(block) < POSITIONS_AT_ONCE // order.batch_size(step)
        if block and fits and step == block.stop and order.phase_of(step) == order.phase_of(block.start):
            block = range(block.start, step + 1)
            continue
        if block:
            yield block
        block = range(step, step + 1)
    if block:
        yield block


def _cut_documents(unit: Unit, begins: Ints, ends: Ints) -> tuple[Ints, Ints, Ints]:
    """Documents at [begin, end) of the stream -> the piece in each sequence that has tokens of it.

    (which document, first, count)."""
    if unit.seq_len is None:
        raise ValueError("only packed units are cut into sequences")
    from_sequence = np.maximum(0, -(-(begins - unit.seq_len) // unit.seq_len))
    document, sequence = expand(from_sequence, np.minimum(unit.count, -(-ends // unit.seq_len)))
    at = sequence * unit.seq_len
    first = np.maximum(begins[document], at)
    return document, first - begins[document], np.minimum(ends[document], at + unit.seq_len + 1) - first
