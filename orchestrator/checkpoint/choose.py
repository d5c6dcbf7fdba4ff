"""Which checkpoint of a run people mean: its best, its last, or that of a step. Comes after found.py."""

from collections.abc import Sequence

from orchestrator.checkpoint.found import Found
from orchestrator.checkpoint.keep import rank_best
from orchestrator.core.errors import BadInput


def choose_checkpoint(found: Sequence[Found], wish: str, best_by: str) -> Found:
    """`found` has the newest last; `wish` is best, by that metric, last, or a step. Damaged ones are passed over."""
    sound = [one for one in found if not one.problem]
    if not sound:
        raise BadInput(
            "the run has no checkpoint yet",
            where=f"--checkpoint {wish}",
            remedy="one is written every checkpoint.every_steps, when the run stops, and after its last step",
        )
    fitting = {"last": sound[::-1], "best": rank_best(sound, best_by)}.get(wish)
    if fitting is None:
        fitting = [one for one in reversed(sound) if str(one.step) == wish]
    if not fitting:
        steps = ", ".join(dict.fromkeys(f"{one.step}" for one in sound))
        raise BadInput(
            f"no checkpoint is of a step that was validated by {best_by}" if wish == "best" else "is no checkpoint",
            where=f"--checkpoint {wish}",
            remedy=f"take best, last, or the step of one that there is: {steps}",
        )
    return fitting[0]
