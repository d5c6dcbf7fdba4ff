"""Which checkpoints stay. Comes after writer.py, on rank 0 only."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from orchestrator.checkpoint import layout
from orchestrator.checkpoint.found import Found, list_checkpoints
from orchestrator.config.running import KeepSection
from orchestrator.storage.publish import flush_folder


def choose_to_delete(found: Sequence[Found], keep: KeepSection) -> list[Found]:
    """All but the newest `last` and the `best` by validation loss (of equal ones the newest).

    Damaged ones take nobody's place, so the last sound one always stays; they go once they are older than all of
    `last`, since until then people should see them."""
    newest_first = sorted(found, key=lambda one: (one.step, one.generation), reverse=True)
    sound = [one for one in newest_first if not one.problem]
    last = sound[: keep.last]
    best = sorted((one for one in sound if _has_loss(one)), key=_loss)[: keep.best]
    horizon = min(((one.step, one.generation) for one in last), default=(0, 0))
    return [
        one
        for one in reversed(newest_first)
        if one not in last and one not in best and (one.step, one.generation) < horizon
    ]


def prune(folder: Path, keep: KeepSection) -> list[Path]:
    """Delete what need not stay; what was deleted."""
    deleted = []
    for one in choose_to_delete(list_checkpoints(folder), keep):
        (one.path / layout.COMMIT).unlink()  # first, so that nobody trusts a half-deleted one
        flush_folder(one.path)
        shutil.rmtree(one.path)
        deleted.append(one.path)
    return deleted


def _has_loss(one: Found) -> bool:
    return one.validation_loss is not None and math.isfinite(one.validation_loss)


def _loss(one: Found) -> float:
    assert one.validation_loss is not None
    return one.validation_loss
