"""Which checkpoint of a run people mean: its best, its last, or that of a step. Comes after found.py."""

import math
from collections.abc import Sequence

from orchestrator.checkpoint.found import Found
from orchestrator.core.errors import BadInput


def choose_checkpoint(found: Sequence[Found], wish: str) -> Found:
    """`found` has the newest last, `wish` is best, last, or a step. Damaged ones are passed over."""
    sound = [one for one in found if not one.problem]
    if not sound:
        raise BadInput(
            "the run has no checkpoint yet",
            where=f"--checkpoint {wish}",
            remedy="one is written every checkpoint.every_steps, when the run stops, and after its last step",
        )
    steps = ", ".join(dict.fromkeys(f"{one.step}" for one in sound))
    if wish == "best":
        return _choose_best(sound, steps)
    fitting = sound if wish == "last" else [one for one in sound if str(one.step) == wish]
    if not fitting:
        raise BadInput(
            "there is no such checkpoint",
            where=f"--checkpoint {wish}",
            remedy=f"take best, last, or the step of one that there is: {steps}",
        )
    return fitting[-1]


def _choose_best(sound: Sequence[Found], steps: str) -> Found:
    """By the loss of validation; of equal ones the newest."""
    measured = [(one.validation_loss, one) for one in sound if one.validation_loss is not None]
    finite = [(loss, one) for loss, one in reversed(measured) if math.isfinite(loss)]
    if not finite:
        raise BadInput(
            "no checkpoint was validated at its step",
            where="--checkpoint best",
            remedy=f"take last, or the step of one that there is: {steps}",
        )
    return min(finite, key=lambda pair: pair[0])[1]
