"""Following a run by reading its files: needs no connection to anything, and may die and be started again at will.

Signals become requests to the run: SIGINT and SIGTERM stop it after a checkpoint, a second one at once; SIGUSR1 says
that the machines are about to go."""

import signal
import time
from types import FrameType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from launch.screens.spoken import say_metrics
from launch.signals import heeding
from orchestrator.config.training import TrainSection
from orchestrator.core.clock import SystemClock
from orchestrator.core.words import ExitCode, RunState
from orchestrator.storage.lines import LineTail
from orchestrator.tracking.journal import generation_file, generations
from orchestrator.tracking.now import read_now
from orchestrator.tracking.rundir import RunDir
from orchestrator.tracking.sentences import describe_event

_POLL_S, _LOOK_S = 0.25, 1.0  # for news; and for what can only be looked up
_PATIENCE_S = 3.0  # nodes that are there are ours before that; later people want to know what is missing
_TALKATIVE = {
    *("warming", "started", "adopted", "fault", "leaving"),
    *("node_joined", "node_lost", "node_released", "node_avoided"),
    *("checkpoint_failed", "checkpoint_damaged", "scribe_failed"),
    *("not_finite", "loss_spike", "not_repeated", "voided"),
}


class Follower:
    """Shows a run until it has ended; the first Ctrl-C asks it to stop at a checkpoint, the second one at once."""

    def __init__(self, run_dir: RunDir, train: TrainSection, console: Console, after_generation: int = 0) -> None:
        self._run_dir, self._total, self._every, self._console = run_dir, train.steps, train.log_every, console
        self._after = after_generation
        self._clock = SystemClock()
        self._metrics = LineTail(run_dir.path / "metrics.jsonl")
        self._journals: dict[int, LineTail] = {}
        self._interrupts = 0
        self._shown = -1
        self._viewed = self._looked = 0.0
        self._said_waiting = ""

    def follow(self) -> ExitCode:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[says]}"),
            TimeRemainingColumn(),
        )
        heeded = dict.fromkeys((signal.SIGINT, signal.SIGTERM), self._on_interrupt) | {signal.SIGUSR1: self._on_notice}
        shown = Progress(
            *columns, console=self._console, transient=True, refresh_per_second=1 / _POLL_S,
            auto_refresh=self._console.is_terminal,
        )  # fmt: skip
        with heeding(heeded), shown as progress:
            bar = progress.add_task("starting", total=self._total, says="")
            while not self._has_ended(has_news=self._show_events()):
                self._show_waiting()
                self._show_steps(progress, bar)
                time.sleep(_POLL_S)
            self._show_steps(progress, bar)
        return self._close()

    def _has_ended(self, *, has_news: bool) -> bool:
        """Looked up when there are new events and, since a lease may have run out, now and then."""
        now = self._clock.monotonic()
        if not has_news and now - self._viewed < _LOOK_S:
            return False
        self._viewed = now
        view = self._run_dir.view()
        if view.generation <= self._after:
            return False
        return view.state.ended or view.lost(self._clock)

    def _show_events(self) -> bool:
        """Whether there were any."""
        is_news = False
        for generation in generations(self._run_dir.events):
            if generation <= self._after:
                continue
            path = generation_file(self._run_dir.events, generation)
            for event in self._journals.setdefault(generation, LineTail(path)).read_new():
                is_news = True
                if event["event"] in _TALKATIVE:
                    self._console.print(describe_event(event), style="dim", markup=False, highlight=False)
        return is_news

    def _show_waiting(self) -> None:
        """While nodes are missing: what is asked, and why none fits, whenever that changes."""
        if self._clock.monotonic() - self._looked < _LOOK_S:
            return
        self._looked = self._clock.monotonic()
        now = read_now(self._run_dir.path)
        if now is None or now.waiting is None or now.generation <= self._after:
            return
        waiting = now.waiting
        text = f"waiting for nodes, {waiting.ready} of {waiting.needed} are there; {waiting.describe()}"
        if now.t - waiting.since > _PATIENCE_S and text != self._said_waiting:
            self._said_waiting = text
            self._console.print(text, style="yellow", markup=False, highlight=False)

    def _show_steps(self, progress: Progress, bar: Any) -> None:
        for row in self._metrics.read_new():
            if row.get("generation", 0) <= self._after:
                continue
            if row.get("kind") == "evaluation":
                self._console.print(
                    f"step {row['step']:>6}  {row['split']}: {say_metrics(row)}", highlight=False, soft_wrap=True
                )
            elif row.get("kind") == "note" and row.get("origin") == "rank":
                self._console.print(row["text"], style="yellow", markup=False, highlight=False)
            elif "kind" not in row and "step" in row:
                self._show_step(progress, bar, row)

    def _show_step(self, progress: Progress, bar: Any, row: dict[str, Any]) -> None:
        done = row["step"] + 1
        says = f"loss {row['loss']:.4f}  {row['step_s']:.2f} s/step"
        progress.update(bar, completed=done, description="training", says=says)
        if not self._console.is_terminal and done != self._shown and (done % self._every == 0 or done == self._total):
            self._console.print(f"step {done:>6}/{self._total}  {says}", highlight=False)
        self._shown = done

    def _on_interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        self._interrupts += 1
        self._run_dir.ask_to_stop(self._clock, at_once=self._interrupts > 1)
        text = "stopping at once" if self._interrupts > 1 else "stopping after a checkpoint; Ctrl-C again stops at once"
        self._console.print(f"\n{text}", style="yellow")

    def _on_notice(self, _signal: int, _frame: FrameType | None) -> None:
        self._run_dir.ask_to_stop(self._clock, preempted=True)
        self._console.print("\nthe machines are about to go: stopping after a checkpoint", style="yellow")

    def _close(self) -> ExitCode:
        view = self._run_dir.view()
        resume = f"go on with `longhaul resume {self._run_dir.path}`"
        if not view.state.ended:
            self._console.print(f"[red]the run is lost: its controller is gone or frozen[/red]; {resume}")
            return ExitCode.FAILED
        if view.state is RunState.FAILED:
            self._console.print("[red]failed[/red]: " + escape(view.reason), highlight=False)
        elif view.state is RunState.STOPPED:
            at = f" at step {view.step}" if view.step is not None else ""
            why = f": {escape(view.reason)}" if view.reason else ""
            self._console.print(f"stopped{at}{why}; {resume}", highlight=False)
        elif view.reason:
            self._console.print(escape(view.reason), highlight=False)
        return view.exit_code
