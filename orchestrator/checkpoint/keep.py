"""Which checkpoints stay. Comes after writer.py, on rank 0 only."""

import math
from collections.abc import Sequence
from pathlib import Path

from orchestrator.checkpoint.found import Found, list_checkpoints, verify_on
from orchestrator.checkpoint.shelf import Address, Shelf, to_shelf
from orchestrator.config.running import KeepSection
from orchestrator.core.measures import cost_of


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


def prune(kept: Shelf | Path, keep: KeepSection, best_by: str) -> list[Address]:
    """Delete what need not stay; what was deleted. Where a single sound one is to stay, it is read whole before."""
    shelf = to_shelf(kept)
    found = list_checkpoints(shelf)
    to_go = choose_to_delete(found, keep, best_by)
    staying = [one for one in found if not one.problem and one not in to_go]
    if to_go and len(staying) == 1 and (problems := verify_on(shelf, staying[0].name)):
        spoiled = staying[0]._replace(problem=problems[0])
        to_go = choose_to_delete([spoiled if one is staying[0] else one for one in found], keep, best_by)
    for one in to_go:
        shelf.remove(one.name)
    return [one.path for one in to_go]
