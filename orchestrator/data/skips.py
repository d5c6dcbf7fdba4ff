"""Skips: what a run leaves out, as part of its definition. Voided batches (whole steps) and holes (single positions).

Nothing shifts: a skipped position keeps its place, with weight zero, and is left out of the ledger. Batches are filled
(batch.py) and audited (audit.py) with the same list."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.errors import DataError
from orchestrator.data.unit import Ints
from orchestrator.storage.publish import publish_json, read_json


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

    def save(self, path: Path) -> None:
        publish_json(path, {"format": 1, "voided": sorted(self.voided), "holes": sorted(self.holes)})

    @classmethod
    def load(cls, path: Path) -> "Skips":
        found = read_json(path)
        voided, holes = found.get("voided"), found.get("holes")
        if not (_are_counts(voided) and isinstance(holes, list) and all(_are_counts(hole, 2) for hole in holes)):
            raise DataError('expected {"voided": [step, ...], "holes": [[step, position], ...]}', where=str(path))
        return cls(frozenset(voided), frozenset((step, position) for step, position in holes))


def _are_counts(value: Any, length: int | None = None) -> bool:
    """A list of whole numbers from 0 on."""
    return (
        isinstance(value, list)
        and length in (None, len(value))
        and all(type(item) is int and item >= 0 for item in value)
    )
