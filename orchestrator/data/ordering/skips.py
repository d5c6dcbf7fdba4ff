"""Skips: what a run leaves out, as part of its definition. Voided batches (whole steps) and holes (single positions).

The scribe appends them to the run's skips.jsonl before the step commits; they are read first when a run goes on.
Nothing shifts: a skipped position keeps its place, with weight zero, and is left out of the ledger. Batches are filled
and audited (audit.py) with the same list."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.errors import DataError
from orchestrator.data.ordering.unit import Ints
from orchestrator.storage.lines import read_lines


@dataclass(frozen=True, slots=True)
class Skips:
    """`voided` are steps; `holes` are (step, position in the run)."""

    voided: frozenset[int] = frozenset()
    holes: frozenset[tuple[int, int]] = frozenset()

    def of(self, step: int, positions: Ints) -> NDArray[np.bool_]:
        """Which of a step's positions are left out."""
        if step in self.voided:
            return np.ones(positions.size, bool)
        return np.isin(positions, [position for at, position in self.holes if at == step])

    def before(self, step: int) -> "Skips":
        """Those of the first `step` steps."""
        return Skips(
            frozenset(at for at in self.voided if at < step), frozenset(hole for hole in self.holes if hole[0] < step)
        )

    @classmethod
    def load(cls, path: Path) -> "Skips":
        """Of skips.jsonl, which is there from the first skip on."""
        try:
            head, *rows = list(read_lines(path)) or [{"format": 1}]
        except ValueError as error:
            raise DataError(f"is not made of JSON lines: {error}", where=str(path)) from error
        wrong = [row for row in rows if not (_is_hole(row) or _is_voided(row))]
        if head.get("format") != 1 or wrong:
            raise DataError(
                "expected a head of format 1 and rows with step and position, or step and voided; "
                f"found {wrong[0] if wrong else head}",
                where=str(path),
            )
        voided = frozenset(row["step"] for row in rows if _is_voided(row))
        return cls(voided, frozenset((row["step"], row["position"]) for row in rows if _is_hole(row)))


def _is_voided(row: dict[str, Any]) -> bool:
    return row.get("voided") is True and _is_count(row.get("step"))


def _is_hole(row: dict[str, Any]) -> bool:
    return "voided" not in row and _is_count(row.get("step")) and _is_count(row.get("position"))


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0
