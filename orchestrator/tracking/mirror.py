"""Copies metrics.jsonl to W&B: a living run's for the scribe, an ended run's for `longhaul track sync`.

A thread follows the file, so nothing waits for W&B and nothing is lost when it is slow or down: what could not be sent
is still in the file. curves.py says what W&B shows; wandb.py is W&B itself."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config.run import RunConfig
from orchestrator.core.clock import SystemClock
from orchestrator.core.errors import LonghaulError
from orchestrator.core.words import RunState
from orchestrator.tracking.curves import StepCopy
from orchestrator.tracking.goodput import read_time
from orchestrator.tracking.rows import METRICS_FILE, Lineage, Row, read_true_rows
from orchestrator.tracking.rundir import RunDir
from orchestrator.tracking.scribe import End
from orchestrator.tracking.wandb import Mode, Online, end_core, read_online, resume_command, start_run

INIT_TIMEOUT_S = 30.0
FINISH_TIMEOUT_S = 30.0
SEND_TIMEOUT_S = 600.0  # for a whole run at once, when nobody trains
OLD_STOP_S = 90.0  # longer than W&B takes to start and to hear from its server whether the button has been pressed

_MODES: dict[str, tuple[Mode, ...]] = {
    "online": ("online", "offline"),
    "offline": ("offline",),
    "off": (),
}  # each the way out of the one before


def open_wandb(
    config: RunConfig, about: dict[str, Any], run_dir: Path, note: Callable[[str], None]
) -> "WandbMirror | None":
    """Start copying; None when W&B is off. `about` is shown in the run's config; `note` hears what goes wrong."""
    modes = _MODES[config.tracking.wandb.mode]  # auto has been resolved when a config reaches the scribe
    return WandbMirror(config, about, run_dir, note, modes) if modes else None


# ---- a living run ----


class WandbMirror:
    """A tracking.scribe.Mirror. Whatever W&B does, its methods neither raise nor wait longer than they say."""

    def __init__(
        self,
        config: RunConfig,
        about: dict[str, Any],
        run_dir: Path,
        note: Callable[[str], None],
        modes: tuple[Mode, ...],
        init_timeout_s: float = INIT_TIMEOUT_S,
        finish_timeout_s: float = FINISH_TIMEOUT_S,
    ) -> None:
        self._config, self._about, self._run_dir, self._note = config, about, run_dir, note
        self._init_timeout_s, self._finish_timeout_s = init_timeout_s, finish_timeout_s
        self._began = time.monotonic()
        self._new_rows, self._ended = threading.Event(), threading.Event()
        self._end: End
        self._thread = threading.Thread(target=self._copy_in_modes, args=(modes,), name="wandb", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        self._new_rows.set()

    def finish(self, end: End) -> None:
        """Waits at most as long as W&B may take to start and to finish."""
        self._end = end
        self._ended.set()
        self._new_rows.set()
        self._thread.join(self._init_timeout_s + self._finish_timeout_s)
        if self._thread.is_alive():
            self._note("W&B did not finish in time; metrics.jsonl has every row")

    def _copy_in_modes(self, modes: tuple[Mode, ...]) -> None:
        for mode in modes:
            try:
                self._copy(mode)
            except Exception as error:  # noqa: BLE001 (W&B may raise anything, its core may panic; training never notices)
                self._note(f"W&B {mode} failed: {_one_line(error)}")
            else:
                return
            finally:
                end_core()
        self._note("W&B is off from here on; metrics.jsonl has every row")

    def _copy(self, mode: Mode) -> None:
        run = start_run(
            self._config,
            self._about,
            self._run_dir,
            mode,
            init_timeout_s=self._init_timeout_s,
            finish_timeout_s=self._finish_timeout_s,
            on_stop_button=self._on_stop_button,
        )
        copy = StepCopy(run.log, first_step=run.starting_step)
        alerts = mode == "online" and self._config.tracking.wandb.alerts
        for row in self._follow_rows():
            copy.take(row)
            if alerts and row.get("kind") == "trouble" and row["step"] >= run.starting_step:  # before it they were sent
                self._alert_of_trouble(run, row)
        copy.finish(done=self._end.state is RunState.DONE)
        if alerts:
            self._alert(run)
        sum_up(run, self._run_dir)
        run.finish(exit_code=self._end.exit_code)

    def _follow_rows(self) -> Iterator[Row]:
        """The rows of metrics.jsonl that still count, then those that are appended, until the run ends."""
        path = self._run_dir / METRICS_FILE
        lineage = Lineage(path)
        with path.open("rb") as file:
            file.readline()  # the head
            while True:
                ended = self._ended.is_set()  # asked first: what was written before the end is still read
                self._new_rows.clear()
                while (line := file.readline()).endswith(b"\n"):
                    if lineage.holds(row := json.loads(line)):
                        yield row
                file.seek(-len(line), 1)  # half a row, if its writer is just writing
                if ended:
                    return
                self._new_rows.wait()

    def _alert_of_trouble(self, run: Any, row: Row) -> None:
        title = f"Longhaul: {row['what'].replace('_', ' ')}"  # W&B sends those of one title at most once a minute
        run.alert(title=title, text=f"{self._config.name} at step {row['step']:,}: {row['text']}", level="WARN")

    def _alert(self, run: Any) -> None:
        text = f"{self._config.name}: {self._end.words}"
        if self._end.state is not RunState.DONE:
            text += f"\n{resume_command(self._run_dir)}"
        level = "ERROR" if self._end.state is RunState.FAILED else "INFO"
        run.alert(title=f"Longhaul: run {self._end.state}", text=text, level=level)

    def _on_stop_button(self) -> None:
        """Called by W&B from a thread of its own, once.

        W&B may not forget a press that has been obeyed: then the run would stop again whenever it is resumed."""
        online = read_online(self._run_dir)
        if online is not None and online.stopped and time.monotonic() - self._began < OLD_STOP_S:
            self._note("W&B still says stop, from before the run was resumed: ignored, as is its button from here on")
            return
        if online is not None:
            Online(url=online.url, stopped=True).write(self._run_dir)
        self._note("W&B's Stop button was pressed")
        run_dir = RunDir(self._run_dir)
        if run_dir.asked_to_stop() is None:  # otherwise it is stopping already, perhaps at once
            run_dir.ask_to_stop(SystemClock())


# ---- an ended run ----


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """From which step on W&B had nothing; None when it had all."""

    url: str
    first_step: int | None


def send_run(config: RunConfig, about: dict[str, Any], run_dir: Path, end: End) -> Sent:
    """Send all that W&B does not have yet, as the one run that it is. Called again it goes on after the last step that
    the server has."""
    try:
        run = start_run(
            config,
            about,
            run_dir,
            "online",
            init_timeout_s=INIT_TIMEOUT_S,
            finish_timeout_s=SEND_TIMEOUT_S,
            on_stop_button=_ignore_stop_button,
        )
        copy = StepCopy(run.log, first_step=run.starting_step)
        for row in read_true_rows(run_dir):
            copy.take(row)
        copy.finish(done=end.state is RunState.DONE)
        sum_up(run, run_dir)
        run.finish(exit_code=end.exit_code)
        return Sent(url=run.url, first_step=copy.first_logged)
    except Exception as error:  # W&B may raise anything
        raise LonghaulError(
            f"W&B failed: {_one_line(error)}",
            where=str(run_dir),
            remedy="nothing is lost: do it again when W&B can be reached; it goes on after the last step W&B has",
        ) from error
    finally:
        end_core()


def sum_up(run: Any, run_dir: Path) -> None:
    """What the run's time went into, in the table of runs."""
    spent = read_time(run_dir, time.time())
    if spent.goodput is not None:
        seconds = {f"seconds/{label}": value for label, value in spent.seconds.items()}
        run.summary.update({"goodput": spent.goodput, "goodput_of_ranks": spent.rank_goodput, **seconds})


def _ignore_stop_button() -> None:
    """There is nothing to stop; W&B would interrupt the main thread."""


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
