"""Which checkpoint of a run people mean: its best, its last, or that of a step."""

import math
from pathlib import Path

from orchestrator.checkpoint.found import Found, list_checkpoints
from orchestrator.core.errors import BadInput


def choose_checkpoint(folder: Path, wish: str) -> Found:
    """`wish` is best, last, or a step. Damaged ones are passed over. BadInput tells what there is."""
    found = [one for one in list_checkpoints(folder) if not one.problem]
    if not found:
        raise BadInput(
            "the run has no checkpoint yet",
            where=str(folder),
            remedy="one is written every checkpoint.every_steps, when the run stops, and after its last step",
        )
    if wish == "last":
        return found[-1]
    if wish == "best":
        return _choose_best(found, folder)
    of_step = [one for one in found if str(one.step) == wish]
    if not of_step:
        steps = ", ".join(dict.fromkeys(f"{one.step}" for one in found))
        raise BadInput(
            f"is no checkpoint in {folder}",
            where=f"--checkpoint {wish}",
            remedy=f"take best, last, or one of the steps {steps}",
        )
    return of_step[-1]


def _choose_best(found: list[Found], folder: Path) -> Found:
    """Of equal ones the newest."""
    measured = [one for one in found if one.validation_loss is not None and math.isfinite(one.validation_loss)]
    if not measured:
        raise BadInput(
            f"no checkpoint in {folder} was validated at its step",
            where="--checkpoint best",
            remedy="take last, or one of the steps " + ", ".join(str(one.step) for one in found),
        )
    return min(reversed(measured), key=lambda one: one.validation_loss or 0.0)
