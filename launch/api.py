"""Runs from a script or a notebook: the same job as `longhaul run`, and its numbers afterwards.

    from launch.api import train

    run = train("configs/tiny.yaml", "train.steps=20")
    print(run.state, run.evaluations()[-1])

The config may also be a mapping, as the YAML file would hold it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.here import DEFAULT_ROOT, find_run
from launch.loading import load_checked
from launch.run import begin
from launch.run import resume as go_on
from launch.screen import Screen
from orchestrator.config.load import Values, load_config
from orchestrator.config.run import RunConfig
from orchestrator.core.words import RunState
from orchestrator.tracking.rows import Row, read_evaluations, read_metrics
from orchestrator.tracking.rundir import RunDir


@dataclass(frozen=True, slots=True)
class Run:
    """A run by its directory."""

    path: Path

    @property
    def state(self) -> RunState:
        return RunDir(self.path).view().state

    @property
    def config(self) -> RunConfig:
        return load_config(RunDir(self.path).config).config

    def metrics(self) -> list[Row]:
        """A row for each step: loss, lr, grad_norm, ..."""
        return read_metrics(self.path)

    def evaluations(self) -> list[Row]:
        """A row for each validation."""
        return read_evaluations(self.path)


def train(
    config: str | Path | Values,
    *sets: str,
    overlays: Sequence[Path] = (),
    or_resume: bool = False,
    screen: Screen | None = None,
) -> Run:
    """Train and follow until the end. `sets` are `a.b=c`. Bad input raises what the command line would print; whether
    the run came to its end is told by its `state`."""
    checked = load_checked(Path(config) if isinstance(config, str) else config, overlays, sets)
    begin(checked, screen or Screen(), or_resume=or_resume)
    return Run(Path(checked.root) / checked.name)


def resume(name: str | Path, *sets: str, root: Path = DEFAULT_ROOT, screen: Screen | None = None) -> Run:
    """Go on with a run, by its name below `root` or its path, as `longhaul resume` does."""
    found = find_run(str(name), root)
    go_on(str(name), root, (), sets, screen or Screen())
    return Run(found.path)
