"""Which checkpoints stay. Comes after writer.py, on rank 0 only."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from orchestrator.checkpoint import layout
from orchestrator.checkpoint.found import Found, list_checkpoints
from orchestrator.config.running import KeepSection
from orchestrator.core.measures import cost_of
from orchestrator.storage.publish import flush_folder


def choose_to_delete(found: Sequence[Found], keep: KeepSection, best_by: str) -> list[Found]:
    """All but the newest `last` and the `best` by that metric of their validations (of equal ones the newest).

    Damaged ones take nobody's place, so the last sound one always stays; they go once they are older than all of
    `last`, since until then people should see them."""
    newest_first = sorted(found, key=lambda one: (one.step, one.generation), reverse=True)
    sound = [one for one in newest_first if not one.problem]
    last = sound[: keep.last]
    best = rank_best(sound, best_by)[: keep.best]
    horizon = min(((one.step, one.generation) for one in last), default=(0, 0))
    return [
        one
        for one in reversed(newest_first)
        if one not in last and one not in best and (one.step, one.generation) < horizon
    ]


def rank_best(found: Sequence[Found], best_by: str) -> list[Found]:
    """Those whose validation measured it, the best first, of equal ones the newest."""
    newest_first = sorted(found, key=lambda one: (one.step, one.generation), reverse=True)
    measured = (one for one in newest_first if not one.problem and math.isfinite(cost_of(one.metrics, best_by)))
    return sorted(measured, key=lambda one: cost_of(one.metrics, best_by))


def prune(folder: Path, keep: KeepSection, best_by: str) -> list[Path]:
    """Delete what need not stay; what was deleted."""
    deleted = []
    for one in choose_to_delete(list_checkpoints(folder), keep, best_by):
        (one.path / layout.COMMIT).unlink()  # first, so that nobody trusts a half-deleted one
        flush_folder(one.path)
        shutil.rmtree(one.path)
        deleted.append(one.path)
    return deleted
