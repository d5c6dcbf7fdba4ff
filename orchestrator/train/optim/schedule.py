"""The learning rate as a pure function of the step. The loop sets it before every update: a resume needs no state."""

from collections.abc import Callable
from math import cos, pi

from orchestrator.config.training import ScheduleSection


def learning_rate(schedule: ScheduleSection, peak: float, step: int, steps: int) -> float:
    """The rate of the update that turns step `step` (from 0) into the next one, of `steps` in the run.

    Warm-up rises from zero in equal strides: step 0 already moves, step `warmup_steps` has the peak."""
    if step < schedule.warmup_steps:
        return peak * (step + 1) / (schedule.warmup_steps + 1)
    after = max(1, steps - 1 - schedule.warmup_steps)
    progress = min(1.0, (step - schedule.warmup_steps) / after)
    return peak * SHAPES[schedule.name](progress, schedule.final_share)


def keep_constant(_progress: float, _final_share: float) -> float:
    return 1.0


def fall_as_cosine(progress: float, final_share: float) -> float:
    return final_share + (1 - final_share) * (1 + cos(pi * progress)) / 2


SHAPES: dict[str, Callable[[float, float], float]] = {"constant": keep_constant, "cosine": fall_as_cosine}
