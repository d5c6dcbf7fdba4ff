"""What is wrong with data.augment, found in the launcher before anything starts."""

from collections.abc import Iterator

from orchestrator.config.arguments import check_arguments
from orchestrator.config.data import AugmentSection, DataSection
from orchestrator.config.problems import Problem, shown
from orchestrator.core.errors import ConfigError
from orchestrator.train.augment.changes import COLOURS, SCALES, change_for, flip

GIVEN = ("drawn", "frame")  # what no config sets


def check_augment(data: DataSection) -> list[Problem]:
    """Every change is found, its arguments fit, and it stands where it can be done."""
    problems = [problem for i, step in enumerate(data.augment) for problem in _check_step(f"data.augment.{i}", step)]
    return problems + list(_check_order(data))


def _check_step(key: str, step: AugmentSection) -> Iterator[Problem]:
    try:
        function = change_for(step.name, f"{key}.name")
    except ConfigError as error:
        yield Problem(f"{key}.name", f"{error.message}; {error.remedy}", shown(step.name))
        return
    yield from check_arguments(step.name, step.args, function, GIVEN, True, key)
    if function is flip and step.p == 1:
        yield Problem(f"{key}.p", "every picture would be flipped, and none in evaluation: set it, for example to 0.5")
    if step.name in SCALES and step.p != 1:
        yield Problem(
            f"{key}.p", f"{step.name} happens to every picture, in evaluation too: leave it out", shown(step.p)
        )


def _check_order(data: DataSection) -> Iterator[Problem]:
    """Colours are cut off below 0 and above 1."""
    scaled = "normalize of data.transforms" if any(step.name == "normalize" for step in data.transforms) else None
    for i, step in enumerate(data.augment):
        if step.name in SCALES:
            scaled = scaled or step.name
        if step.name in COLOURS and scaled is not None:
            yield Problem(f"data.augment.{i}.name", f"needs pixels from 0 to 1, before {scaled}", shown(step.name))
