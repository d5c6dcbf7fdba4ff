"""The proof without training: the ledger made again from config, manifest and skips. difference.py compares.

Nothing is read through what feeds ranks, so that an error there shows. Of packed runs the tokens are read; of samples
the manifest's checksums are, with which every rank compared the bytes it fed: no raw shard is touched."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrator.data.feeding.read import TokenReader, TokenStore
from orchestrator.data.ordering.ledger import NUM_LIMBS, Sums, digest_groups
from orchestrator.data.ordering.order import Order
from orchestrator.data.ordering.parts import parts
from orchestrator.data.ordering.skips import Skips
from orchestrator.data.ordering.unit import Ints, Unit, expand

POSITIONS_AT_ONCE = 2**17  # laid out together, in about 100 MB
DOCUMENTS_AT_ONCE = 2**14

StepSums = tuple[int, Sums, int]  # step, sums, rows in them
Columns = tuple[Ints, Ints, Ints, Ints]  # of Span


class Tables(TokenStore, Protocol):
    """What the proof needs of a manifest."""

    def checksums_at(self, ordinal: Ints, place: Ints, split: str) -> NDArray[np.uint64]:
        """Of samples kept in the split, a row of two numbers each."""
        ...


class Prepared:
    """What prepare left of one split: which samples are kept, and the checksums of what is fed of them."""

    def __init__(self, tables: Tables, split: str, *, packed: bool) -> None:
        self._tables, self._split = tables, split
        self._tokens = TokenReader(tables, split) if packed else None

    def checksums(self, span: Columns) -> NDArray[np.uint64]:
        """A row of two numbers for each span; DataError when one is not of the split."""
        if self._tokens is None:
            return self._tables.checksums_at(span[0], span[1], self._split)
        return self._tokens.checksums(*span)

    def places(self, ordinal: int) -> Ints:
        """Where in the shard its kept samples stand."""
        return self._tables.places(ordinal, self._split)


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
    order: Order, prepared: Prepared, skips: Skips, steps: Iterable[int], fed: FedUnits | None = None
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
                span = table.ordinal, table.place, table.first, table.count
                found = digest_groups(groups[table.row], high - low + 1, place, span, prepared.checksums(span))
                limbs[low:high] += found[:-1]
                if fed is not None:
                    fed.add((source, unit), rows.size, Sums.from_limbs(found.sum(axis=0).tolist()))
        for step, sums, count in zip(block, limbs.tolist(), counts.tolist(), strict=True):
            yield step, Sums.from_limbs(sums), count


def unit_set(unit: Unit, prepared: Prepared) -> Sums:
    """The set sum of a whole unit, from its samples in file order, cut where packed; order has no part in it."""
    total = Sums()
    for span in _list_samples(unit, prepared) if unit.seq_len is None else _cut_windows(unit):
        none = np.zeros_like(span[0])
        limbs = digest_groups(none, 1, [none, none], span, prepared.checksums(span))
        total += Sums(0, Sums.from_limbs(limbs[0].tolist()).set)
    return total


def prove_epochs(order: Order, prepared: Prepared, fed: FedUnits) -> Iterator[EpochProof]:
    """Every epoch that was taken whole, source after source. What is still being prepared is no whole one."""
    for source, row in order.rows.items():
        if not row.is_whole:
            continue
        last = max((row.epoch_of(unit) for of, unit in fed.rows if of == source), default=-1)
        for epoch in range(last + 1):
            units = row.units_of(epoch)
            if any(fed.rows[source, unit] != order.unit(source, unit).count for unit in units):
                continue  # still under way, or cut off by another sequence length
            taken = sum((fed.sets[source, unit] for unit in units), Sums())
            expected = sum((unit_set(order.unit(source, unit), prepared) for unit in units), Sums())
            yield EpochProof(source, epoch, sum(fed.rows[source, unit] for unit in units), taken == expected)


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


def _list_samples(unit: Unit, prepared: Prepared) -> Iterator[Columns]:
    """Every kept sample of the unit's shards, shard after shard."""
    for shards in np.array_split(unit.shards, -(-unit.count // DOCUMENTS_AT_ONCE)):
        places = [prepared.places(int(ordinal)) for ordinal in shards]
        ordinal, place = np.repeat(shards, list(map(len, places))), np.concatenate(places)
        yield ordinal, place, np.zeros_like(place), np.zeros_like(place)


def _cut_windows(unit: Unit) -> Iterator[Columns]:
    """Every kept document, window after window in file order, in the pieces that the unit's sequences have of it."""
    for window in range(unit.num_windows):
        layout = unit.layout(window)
        ordinal, place = layout.find(np.arange(layout.ends.size))
        ends = layout.begin + layout.ends.astype(np.int64)
        begins = np.concatenate([[layout.begin], ends[:-1]])
        in_file = np.argsort(ordinal << 32 | place)
        for at in range(0, in_file.size, DOCUMENTS_AT_ONCE):
            some = in_file[at : at + DOCUMENTS_AT_ONCE]
            document, first, count = _cut_documents(unit, begins[some], ends[some])
            yield ordinal[some][document], place[some][document], first, count


def _cut_documents(unit: Unit, begins: Ints, ends: Ints) -> tuple[Ints, Ints, Ints]:
    """Documents at [begin, end) of the stream -> the piece in each sequence that has tokens of it.

    (which document, first, count)."""
    assert unit.seq_len is not None
    from_sequence = np.maximum(0, -(-(begins - unit.seq_len) // unit.seq_len))
    document, sequence = expand(from_sequence, np.minimum(unit.count, -(-ends // unit.seq_len)))
    at = sequence * unit.seq_len
    first = np.maximum(begins[document], at)
    return document, first - begins[document], np.minimum(ends[document], at + unit.seq_len + 1) - first
