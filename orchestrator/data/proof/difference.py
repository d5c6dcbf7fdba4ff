"""Where a run departs from its definition: the first step and column of the ledger, and with keys the first position.

After audit.py, which makes the ledger again; launch/proof.py tells what is found."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from orchestrator.core.words import Span
from orchestrator.data.ordering.order import Order
from orchestrator.data.ordering.skips import Skips
from orchestrator.data.ordering.unit import Ints
from orchestrator.data.proof.audit import StepSums

Spans = Sequence[Sequence[Span]]  # of each slot of a batch


class ShardKeys(Protocol):
    """What readable keys need of a manifest."""

    def shard_name(self, ordinal: int) -> str: ...
    def keys(self, ordinal: int, places: Ints | None = None) -> list[str]: ...


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


@dataclass(frozen=True, slots=True)
class WrongPosition:
    """The first position of a step whose samples differ: what belongs there, and what stands there."""

    position: int
    expected: Span | None
    found: Span | None

    def tell(self, dataset: ShardKeys) -> str:
        expected, found = (tell_span(dataset, span) for span in (self.expected, self.found))
        return f"position {self.position} must be {expected}, it is {found}"


def compare_ledger(rows: Iterable[Mapping[str, Any]], expected: Iterable[StepSums]) -> Difference | None:
    """The first difference between the true rows of a ledger, by step, and what they must be. Nothing is collected."""
    rows = iter(rows)
    row = next(rows, None)
    for step, sums, count in expected:
        while row is not None and row["step"] < step:
            row = next(rows, None)
        found = row if row is not None and row["step"] == step else None
        columns: dict[str, str | int] = {"order_digest": sums.order_hex, "set_digest": sums.set_hex, "count": count}
        for what, value in columns.items():
            if found is None or found[what] != value:
                return Difference(step, what, value, None if found is None else found[what])
    return None


def expected_spans(order: Order, skips: Skips, step: int) -> list[list[Span]]:
    """What each slot of a step must feed; nothing where it is skipped."""
    slots = order.slots(step)
    skipped = skips.of(step, slots.position)
    return [[] if skip else order.spans(slots, i) for i, skip in enumerate(skipped)]


def find_wrong_position(positions: Ints, expected: Spans, found: Spans) -> WrongPosition | None:
    """The lowest position whose slot differs, and its first span that does. `positions` are those of the slots."""
    for slot in np.argsort(positions).tolist():
        must, is_ = (list(side[slot]) if slot < len(side) else [] for side in (expected, found))
        for n in range(max(len(must), len(is_))):
            pair = [side[n] if n < len(side) else None for side in (must, is_)]
            if pair[0] != pair[1]:
                return WrongPosition(int(positions[slot]), *pair)
    return None


def tell_span(dataset: ShardKeys, span: Span | None) -> str:
    """A span as people read it."""
    if span is None:
        return "left out"
    name = f"{dataset.shard_name(span.ordinal)}/{dataset.keys(span.ordinal, np.array([span.place]))[0]}"
    return f"{name} tokens {span.first} to {span.first + span.count}" if span.count else name


def readable_keys(dataset: ShardKeys, spans_by_slot: Spans) -> list[list[str | int]]:
    """Spans as `longhaul ledger` prints them, in batch order: [["shard/key", first, count], ...]."""
    spans = [span for held in spans_by_slot for span in held]
    places: dict[int, list[int]] = {}
    for ordinal, place in sorted({(span.ordinal, span.place) for span in spans}):
        places.setdefault(ordinal, []).append(place)
    names = {
        (ordinal, place): f"{dataset.shard_name(ordinal)}/{key}"
        for ordinal, wanted in places.items()
        for place, key in zip(wanted, dataset.keys(ordinal, np.array(wanted)), strict=True)
    }
    return [[names[span.ordinal, span.place], span.first, span.count] for span in spans]
