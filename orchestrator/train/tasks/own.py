"""A user's own task, or own step of one of ours, by its dotted name. task.py says what they are given and must give.

check_own is asked before anything starts; make_own_step and table.py use what it found."""

from collections.abc import Iterator

import torch

from orchestrator.config.problems import Problem, shown
from orchestrator.config.run import RunConfig
from orchestrator.core.dotted import find_function, is_dotted
from orchestrator.core.errors import ConfigError, TrainingFailed
from orchestrator.train.tasks.task import Fields, Forward, Inputs, Measured, Task

METHODS = ("collate", "step")


def check_own(config: RunConfig) -> Iterator[Problem]:
    """Imports what the config names."""
    for key, name in (("task.name", config.task.name), ("task.step", config.task.step)):
        if name is None or not is_dotted(name):
            continue
        try:
            found = find_function(name, key)
        except ConfigError as error:
            yield Problem(key, f"{error.message}; {error.remedy}", shown(name))
            continue
        lacking = [method for method in METHODS if not callable(getattr(found, method, None))]
        if key == "task.name" and lacking:
            yield Problem(
                key, f"a task needs the methods {' and '.join(METHODS)}; it lacks {' and '.join(lacking)}", name
            )
    if config.task.step is not None and not is_dotted(config.task.step):
        yield Problem("task.step", "must be a function's dotted name, as package.module:function", config.task.step)


class OwnStep:
    """A task whose step is another: the user's function takes the model and the inputs."""

    def __init__(self, task: Task, name: str) -> None:
        self._task, self._name = task, name
        self._step = find_function(name, "task.step")

    def collate(self, fields: Fields, device: torch.device) -> Inputs:
        return self._task.collate(fields, device)

    def step(self, forward: Forward, inputs: Inputs) -> Measured:
        measured = self._step(forward, inputs)
        if isinstance(measured, torch.Tensor) and measured.numel() == 1:
            return Measured(loss=measured.float().reshape(()))
        if isinstance(measured, Measured):
            return measured
        kind = (
            f"tensor of shape {list(measured.shape)}" if isinstance(measured, torch.Tensor) else type(measured).__name__
        )
        raise TrainingFailed(
            f"{self._name} returned a {kind}",
            where="task.step",
            remedy="return Measured, or one number: the sum of the samples' losses, each times its weight",
        )
