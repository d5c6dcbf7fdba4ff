"""Weights & Biases, as a copy of metrics.jsonl. The only place that imports wandb.

A thread follows the file, so nothing waits for W&B and nothing is lost when it is slow or down: what could not be sent
is still in the file. Online there is one W&B run over all attempts, continued after the last step the server has.
Offline each scribe makes a new segment with every step of the run, so the newest segment alone is the whole run."""

import contextlib
import json
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from orchestrator.config.run import RunConfig
from orchestrator.storage.publish import create_exclusive, read_json
from orchestrator.tracking.rows import METRICS_FILE, Row

INIT_TIMEOUT_S = 30.0
FINISH_TIMEOUT_S = 30.0

Mode = Literal["online", "offline"]

_MODES: dict[str, tuple[Mode, ...]] = {
    "online": ("online", "offline"),
    "offline": ("offline",),
    "off": (),
}  # each the way out of the one before
_NAMES = {
    "generation": "world/generation",
    "world_size": "world/size",
    "step_s": "time/step",
    "data_wait_s": "time/data_wait",
}


def open_wandb(
    config: RunConfig, about: dict[str, Any], run_dir: Path, note: Callable[[str], None]
) -> "WandbMirror | None":
    """Start copying; None when W&B is off. `about` is shown in the run's config; `note` hears what goes wrong."""
    modes = _MODES[config.tracking.wandb.mode]  # auto has been resolved when a config reaches the scribe
    return WandbMirror(config, about, run_dir, note, modes) if modes else None


def read_run_id(run_dir: Path) -> str:
    """The W&B id of this run, made on the first call."""
    path = run_dir / "wandb" / "run_id.json"
    if not path.exists():
        with contextlib.suppress(FileExistsError):  # another process was faster
            create_exclusive(path, json.dumps({"format": 1, "id": secrets.token_hex(4)}).encode())
    return str(read_json(path)["id"])


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
        self._new_rows, self._ended = threading.Event(), threading.Event()
        self._exit_code = 0
        self._thread = threading.Thread(target=self._copy_in_modes, args=(modes,), name="wandb", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        self._new_rows.set()

    def finish(self, exit_code: int) -> None:
        """Waits at most as long as W&B may take to start and to finish."""
        self._exit_code = exit_code
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
                self._note(f"W&B {mode} failed: {type(error).__name__}: {str(error).strip()[:500]}")
            else:
                return
            finally:
                _end_core()
        self._note("W&B is off from here on; metrics.jsonl has every row")

    def _copy(self, mode: Mode) -> None:
        run = self._start(mode)
        copy = StepCopy(run.log, first_step=run.starting_step)
        for row in self._follow_rows():
            copy.take(row)
        copy.take_last_notes()
        run.finish(exit_code=self._exit_code)

    def _start(self, mode: Mode) -> Any:
        import wandb  # here, since it takes half a second that the scribe's first row should not wait for

        chosen = self._config.tracking.wandb
        settings = wandb.Settings(
            init_timeout=self._init_timeout_s,
            finish_timeout=self._finish_timeout_s,
            finish_timeout_raises=True,
            silent=True,
            console="off",
            save_code=False,
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            x_disable_meta=True,  # the command line of a Ray worker holds session secrets
            x_disable_stats=True,  # of the scribe's own process, which nobody wants to see
        )
        wandb.setup(settings)  # makes the parts outside a run silent too
        run = wandb.init(
            id=read_run_id(self._run_dir),
            name=self._config.name,
            project=chosen.project,
            entity=chosen.entity,
            group=chosen.group,
            tags=chosen.tags,
            config=run_config(self._config, self._about),
            dir=self._run_dir,
            mode=mode,
            resume="allow" if mode == "online" else None,
            allow_val_change=True,  # a resume may change free keys
            settings=settings,
        )
        run.define_metric("validation/loss", summary="min")
        return run

    def _follow_rows(self) -> Iterator[Row]:
        """Every row of metrics.jsonl, then those that are appended, until the run ends."""
        with (self._run_dir / METRICS_FILE).open("rb") as file:
            file.readline()  # the head
            while True:
                ended = self._ended.is_set()  # asked first: what was written before the end is still read
                self._new_rows.clear()
                while (line := file.readline()).endswith(b"\n"):
                    yield json.loads(line)
                file.seek(-len(line), 1)  # half a row, if its writer is just writing
                if ended:
                    return
                self._new_rows.wait()


class StepCopy:
    """Gives rows to W&B by step, in order, each once. W&B cannot change a row: of a repeated step the first stays."""

    def __init__(self, log: Callable[..., None], first_step: int) -> None:
        self._log = log
        self._first_step = first_step  # the server has everything before it
        self._step = first_step
        self._last: dict[str, int] = {}
        self._notes: list[str] = []

    def take(self, row: Row) -> None:
        kind = row.get("kind", "step")
        if kind == "note":
            self._notes.append(row["text"])
        elif kind in _VALUES_OF:
            self._take_values(kind, row["step"], _VALUES_OF[kind](row))

    def take_last_notes(self) -> None:
        if self._notes:
            self._log({"note": "; ".join(self._notes)}, step=self._step)

    def _take_values(self, kind: str, step: int, values: dict[str, Any]) -> None:
        if step < self._first_step:
            self._notes.clear()  # they are on the server too
        if step < self._step or step <= self._last.get(kind, -1):
            return
        if self._notes:
            values["note"] = "; ".join(self._notes)
            self._notes.clear()
        self._log(values, step=step)
        self._step = self._last[kind] = step


def step_values(row: Row) -> dict[str, Any]:
    """A step under the names people know from other trainers."""
    values = {_NAMES.get(name, f"train/{name}"): value for name, value in row.items() if name != "step"}
    for what in ("tokens", "samples"):
        if what in row and row.get("step_s"):
            values[f"throughput/{what}_per_sec"] = row[what] / row["step_s"]
    return values


def evaluation_values(row: Row) -> dict[str, Any]:
    about = ("step", "generation", "kind", "split")
    return {f"{row['split']}/{name}": value for name, value in row.items() if name not in about}


_VALUES_OF: dict[str, Callable[[Row], dict[str, Any]]] = {"step": step_values, "evaluation": evaluation_values}


def run_config(config: RunConfig, about: dict[str, Any]) -> dict[str, Any]:
    """What W&B shows as the run's config. Environment variables stay here: people do put secrets there."""
    return config.model_dump(mode="json", exclude={"cluster": {"env"}}) | {"longhaul": about}


def _end_core() -> None:
    """End wandb's core process: it may be dead or stuck, and the next mode needs one of its own."""
    with contextlib.suppress(Exception, SystemExit):  # it exits when its core process failed
        import wandb

        wandb.teardown()
