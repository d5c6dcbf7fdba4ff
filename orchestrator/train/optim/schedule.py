"""The learning rate as a pure function of the step, and for plateau of the validations before it. The loop sets it
before every update: a resume needs no state."""

from collections.abc import Callable
from math import cos, pi, sqrt

from orchestrator.config.training import ScheduleSection


def learning_rate(schedule: ScheduleSection, peak: float, step: int, steps: int, falls: int = 0) -> float:
    """The rate of the update that turns step `step` (from 0) into the next one, of `steps` in the run.

    Warm-up rises from zero in equal strides: step 0 already moves, step `warmup_steps` has the peak. `falls`: how often
    validations have come to a plateau (history.py)."""
    if step < schedule.warmup_steps:
        return peak * (step + 1) / (schedule.warmup_steps + 1)
    if schedule.name == "plateau":
        return peak * schedule.factor**falls
    return peak * SHAPES[schedule.name](schedule, step, steps)


def keep_constant(_schedule: ScheduleSection, _step: int, _steps: int) -> float:
    return 1.0


def fall_in_steps(schedule: ScheduleSection, step: int, _steps: int) -> float:
    assert schedule.every_steps is not None
    return schedule.factor ** ((step - schedule.warmup_steps) // schedule.every_steps)


def fall_linearly(schedule: ScheduleSection, step: int, steps: int) -> float:
    return 1 - (1 - schedule.final_share) * _progress(schedule.warmup_steps, step, steps)


def fall_as_cosine(schedule: ScheduleSection, step: int, steps: int) -> float:
    progress = _progress(schedule.warmup_steps, step, steps)
    return schedule.final_share + (1 - schedule.final_share) * (1 + cos(pi * progress)) / 2


def stay_then_fall(schedule: ScheduleSection, step: int, steps: int) -> float:
    """Warm-up, stable, decay: the last `decay_share` of the steps, one at least, fall linearly."""
    falling = max(1, round(schedule.decay_share * steps))
    last_stable = max(schedule.warmup_steps, steps - 1 - falling)
    return 1 - (1 - schedule.final_share) * _progress(last_stable, max(step, last_stable), steps)


def fall_as_inverse_root(schedule: ScheduleSection, step: int, _steps: int) -> float:
    return sqrt((schedule.warmup_steps + 1) / (step + 1))


def _progress(first: int, step: int, steps: int) -> float:
    """From 0 at step `first` to 1 at the last step."""
    return min(1.0, (step - first) / max(1, steps - 1 - first))


SHAPES: dict[str, Callable[[ScheduleSection, int, int], float]] = {
    "constant": keep_constant,
    "step": fall_in_steps,
    "linear": fall_linearly,
    "cosine": fall_as_cosine,
    "wsd": stay_then_fall,
    "inverse_sqrt": fall_as_inverse_root,
}
