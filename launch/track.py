"""`longhaul track sync`: brings a run that was offline, wholly or at times, to W&B as the one run that it is.

Comes after the run has ended. What is sent is metrics.jsonl, the same as a living run sends; W&B's own offline segments
are not needed for it."""

import importlib.metadata
from collections import Counter
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from launch.environment import has_wandb_key
from launch.screen import Screen
from orchestrator.config.load import load_config
from orchestrator.config.run import RunConfig
from orchestrator.core.clock import SystemClock
from orchestrator.core.errors import BadInput
from orchestrator.core.words import ExitCode, RunState
from orchestrator.storage.publish import read_json
from orchestrator.tracking.mirror import send_run
from orchestrator.tracking.rows import read_true_rows
from orchestrator.tracking.rundir import RunDir
from orchestrator.tracking.scribe import End
from orchestrator.tracking.wandb import read_run_id, read_url


@dataclass(frozen=True, kw_only=True, slots=True)
class Stock:
    """What there is to send; steps are counted from 0 and have no gaps."""

    steps: int
    evaluations: int
    notes: int
    samples: int  # of nodes

    def __str__(self) -> str:
        last = f"steps 0-{self.steps - 1}" if self.steps else "no steps"
        return f"{last}, {self.evaluations} evaluation(s), {self.notes} note(s), {self.samples} sample(s) of nodes"


def sync(run_dir: RunDir, *, dry_run: bool, screen: Screen) -> ExitCode:
    end = find_end(run_dir)
    config = load_config(run_dir.config).config
    stock = take_stock(run_dir)
    if dry_run:
        _show(run_dir, config, stock, screen)
        return ExitCode.DONE
    if not has_wandb_key():
        raise BadInput(
            "no W&B API key is there", where=str(run_dir.path), remedy="`wandb login`, or set WANDB_API_KEY, and again"
        )
    with screen.console.status(Text(f"sending {stock}")):
        sent = send_run(config, describe_run(run_dir), run_dir.path, end)
    if sent.first_step is None:
        screen.say(f"nothing to send, W&B has it all: {sent.url}")
    else:
        screen.say(f"sent everything from step {sent.first_step} on: {sent.url}")
    return ExitCode.DONE


def find_end(run_dir: RunDir) -> End:
    """How the run ended. A living one is refused: its own scribe is writing."""
    view = run_dir.view()
    if view.state.ended:
        return End(view.state, view.exit_code, view.reason)
    if view.lost(SystemClock()):
        return End(RunState.FAILED, ExitCode.FAILED, "lost")
    raise BadInput(
        f"the run is {view.state}, and writes to W&B itself or will be",
        where=str(run_dir.path),
        remedy=f"wait for its end, or stop it by `longhaul stop {run_dir.path}`",
    )


def take_stock(run_dir: RunDir) -> Stock:
    kinds = Counter(row.get("kind", "step") for row in read_true_rows(run_dir.path))
    if not kinds:
        raise BadInput("the run has written nothing yet", where=str(run_dir.path), remedy="there is nothing to send")
    return Stock(steps=kinds["step"], evaluations=kinds["evaluation"], notes=kinds["note"], samples=kinds["system"])


def describe_run(run_dir: RunDir) -> dict[str, Any]:
    """What a living run shows in W&B beside its config."""
    return {
        "chain": read_json(run_dir.manifest)["segments"][-1],
        "longhaul": importlib.metadata.version("longhaul"),
        "hash": read_json(run_dir.plan)["hash"],
    }


def _show(run_dir: RunDir, config: RunConfig, stock: Stock, screen: Screen) -> None:
    chosen = config.tracking.wandb
    segments = len(list((run_dir.path / "wandb").glob("offline-run-*")))
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")
    lines = {
        "would send": str(stock),
        "of": str(run_dir.path),
        "as": f"run {read_run_id(run_dir.path)} of project {chosen.project}, entity {chosen.entity or 'by default'}",
        "in place of": f"{segments} offline segment(s)",
        "shown at": read_url(run_dir.path) or "an address that W&B has yet to give",
    }
    for what, text in lines.items():
        table.add_row(what, Text(text))
    screen.console.print(table, highlight=False)
    screen.say("steps that W&B has already are not sent again")
