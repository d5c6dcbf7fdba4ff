"""`longhaul run CONFIG --folds K`: cross-validation. The data is cut into K parts, and each run in turn is validated on
another of them and trains on the rest; then mean and spread of what validation measured.

Each fold is a run of its own, <name>-fold0 and so on, begun or gone on with by launch/run.py, so the command can be
repeated: folds that are done are not run again."""

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from launch.loading import load_checked
from launch.run import begin
from launch.screen import Screen
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import BadInput
from orchestrator.core.measures import cost_of
from orchestrator.core.words import ExitCode
from orchestrator.tracking.rows import read_true_rows

Begin = Callable[..., ExitCode]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fold:
    """The best validation of one fold's run, by evaluate.best_by."""

    run: str
    step: int
    metrics: dict[str, float]


def run_folds(
    path: Path,
    overlays: Sequence[Path],
    sets: Sequence[str],
    count: int,
    screen: Screen,
    *,
    as_json: bool,
    begin: Begin = begin,
) -> ExitCode:
    """The first fold that does not come to its end ends the command with its exit code."""
    folds = []
    for number, config in enumerate(load_folds(path, overlays, sets, count)):
        screen.say(f"fold {number} of {count}: {config.name}")
        code = begin(config, screen, or_resume=True)
        if code is not ExitCode.DONE:
            screen.say(f"{config.name} has not come to its end; the same command goes on from there")
            return code
        folds.append(find_best(config))
    summary = summarise(folds)
    if as_json:
        print(json.dumps({"format": 1, "folds": [asdict(fold) for fold in folds], **summary}))
    else:
        show(folds, summary, screen)
    return ExitCode.DONE


def load_folds(path: Path, overlays: Sequence[Path], sets: Sequence[str], count: int) -> list[RunConfig]:
    """One checked config for each fold. All of them are looked at before the first is run."""
    folds = [*sets, f"data.split.folds={count}"]
    whole = load_checked(path, overlays, [*folds, "data.split.fold=0"])
    if not whole.evaluate.every_steps:
        raise BadInput(
            "nothing would be measured",
            where="--folds",
            remedy="set evaluate.every_steps; the last step always is one",
        )
    group = whole.tracking.wandb.group or whole.name
    named = [[f"name={whole.name}-fold{number}", f"data.split.fold={number}"] for number in range(count)]
    return [load_checked(path, overlays, [*folds, *own, f"tracking.wandb.group={group}"]) for own in named]


def find_best(config: RunConfig) -> Fold:
    rows = read_true_rows(Path(config.root) / config.name)
    measured = [row for row in rows if row.get("kind") == "evaluation" and row["split"] == "validation"]
    best = min(measured, key=lambda row: cost_of(row, config.evaluate.best_by))
    metrics = {name: value for name, value in best.items() if isinstance(value, float) and name != "t"}
    return Fold(run=config.name, step=best["step"], metrics=metrics)


def summarise(folds: Sequence[Fold]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation over the folds of what all of them measured."""
    names = [name for name in folds[0].metrics if all(name in fold.metrics for fold in folds)]
    values = {name: [fold.metrics[name] for fold in folds] for name in names}
    return {
        "mean": {name: statistics.fmean(numbers) for name, numbers in values.items()},
        "spread": {name: statistics.stdev(numbers) for name, numbers in values.items()},
    }


def show(folds: Sequence[Fold], summary: dict[str, dict[str, float]], screen: Screen) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("metric", overflow="fold")
    for heading in ("mean", "spread", "lowest", "highest"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, mean in summary["mean"].items():
        numbers: list[Any] = [fold.metrics[name] for fold in folds]
        figures = (mean, summary["spread"][name], min(numbers), max(numbers))
        table.add_row(name, *(f"{figure:.4g}" for figure in figures))
    steps = ", ".join(str(fold.step) for fold in folds)
    screen.say(f"best validation of each of {len(folds)} folds, at step {steps}")
    screen.console.print(table)
