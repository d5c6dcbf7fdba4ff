"""What people see: one console, progress while data is prepared, the closing summary."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from launch.screens.spoken import say_time_spent
from orchestrator.checkpoint.shelf import LocalShelf
from orchestrator.config.run import RunConfig
from orchestrator.config.training import METRICS
from orchestrator.tracking.goodput import read_time
from orchestrator.tracking.rows import read_evaluations, read_metrics
from orchestrator.tracking.rundir import RunDir
from orchestrator.tracking.wandb import read_url

RUN_DIRECTORY = "run directory: "  # announces a run that was found to be in order; remote/submit.py waits for it

Report = Callable[[str, int, int], None]  # what, done, of how many


class Screen:
    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)  # paths and commands are copied

    @contextmanager
    def preparing(self) -> Iterator[Report]:
        """A bar for each stage of preparing; nothing is shown when all is prepared already."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=self.console, transient=True) as progress:
            bars: dict[str, int] = {}

            def report(what: str, done: int, total: int) -> None:
                if what not in bars:
                    bars[what] = progress.add_task(what, total=total)
                progress.update(bars[what], completed=done, total=total)  # type: ignore[arg-type]
                if done == total and not self.console.is_terminal:
                    self.console.print(f"{what}: {total}", highlight=False)

            yield report


def show_summary(console: Console, run_dir: RunDir, config: RunConfig, seconds: float) -> None:
    """The closing words of a finished run."""
    rows = read_metrics(run_dir.path)
    evaluations = [row for row in read_evaluations(run_dir.path) if row["split"] == "validation"]
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("run", str(run_dir.path))
    table.add_row("steps", f"{len(rows)} on {rows[-1]['world_size']} rank(s), in {seconds:.0f} s")
    table.add_row("training loss", f"{rows[0]['loss']:.4f} -> {rows[-1]['loss']:.4f}")
    if evaluations:
        first, last = evaluations[0], evaluations[-1]
        for metric in METRICS:
            if all(isinstance(row.get(metric), float | int) for row in (first, last)):
                digits = 1 if metric == "perplexity" else 4
                table.add_row(f"validation {metric}", f"{first[metric]:.{digits}f} -> {last[metric]:.{digits}f}")
    fed, busy = "tokens" if "tokens" in rows[0] else "samples", sum(row["step_s"] for row in rows)
    count = sum(row[fed] for row in rows)
    table.add_row(fed, f"{count:,} ({count / busy:,.0f} per second)")
    waited = sum(row["data_wait_s"] for row in rows)
    table.add_row("data wait", f"{100 * waited / busy:.2f} % of step time")
    spent = read_time(run_dir.path, time.time())
    if spent.goodput is not None:
        table.add_row("goodput", say_time_spent(spent.seconds, spent.goodput))
    table.add_row(
        "checkpoints", ", ".join(sorted(LocalShelf(run_dir.checkpoints).list())) or config.checkpoint.store or "none"
    )
    table.add_row("W&B", _wandb_line(run_dir, config))
    table.add_row("proof", f"longhaul verify {run_dir.path}")
    console.print(table, highlight=False)


def _wandb_line(run_dir: RunDir, config: RunConfig) -> str:
    if any((run_dir.path / "wandb").glob("offline-run-*")):  # perhaps only at times
        return f"offline; send it by `longhaul track sync {run_dir.path}`"
    return read_url(run_dir.path) or config.tracking.wandb.mode
