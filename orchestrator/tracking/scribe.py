"""The scribe: writes down what the ranks tell. Rows go to disk first; W&B is a copy made from the file.

Comes after core/news.py, whose news control/ carries here; before rows.py and keys.py, which read it back. The scribe
may be killed at any moment and made again: everything it knows it finds in its files."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from orchestrator.config.run import RunConfig
from orchestrator.core.clock import Clock
from orchestrator.core.news import BegunNews, HolesNews, KeysNews, News, StepNews, VoidedNews
from orchestrator.core.words import RunState
from orchestrator.storage.lines import LineFile
from orchestrator.tracking.keys import KeyParts
from orchestrator.tracking.rows import (
    FORMAT,
    LEDGER_FILE,
    METRICS_FILE,
    SKIPS_FILE,
    Row,
    describe_skip,
    lane_of,
    ledger_row,
    metrics_row,
    place_of,
    read_rows,
    skip_rows,
)


@dataclass(frozen=True, slots=True)
class End:
    """How a run ended, or why it pauses until it is resumed."""

    state: RunState
    exit_code: int
    reason: str = ""

    @property
    def words(self) -> str:
        """One line for people."""
        reason = self.reason.partition("\n")[0]
        return f"run {self.state} with exit code {self.exit_code}" + (f": {reason}" if reason else "")


class Mirror(Protocol):
    """Something that copies metrics.jsonl elsewhere from a thread of its own. Neither call raises."""

    def wake(self) -> None:
        """There are new rows. Returns at once."""
        ...

    def finish(self, end: End) -> None:
        """Copy what is left and stop; returns after a bounded time."""
        ...


_WITHOUT_ROW = KeysNews | HolesNews | VoidedNews | BegunNews  # in metrics.jsonl

OpenMirror = Callable[[RunConfig, dict[str, Any], Path, Callable[[str], None]], Mirror | None]


class Scribe:
    """Writes metrics.jsonl, ledger.jsonl, ledger-keys/ and skips.jsonl of one run; there is one scribe at a time."""

    def __init__(
        self, run_dir: Path, config: RunConfig, about: dict[str, Any], clock: Clock, open_wandb: OpenMirror | None
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # the mirror annotates from its thread
        self._finished = False
        self._keys = KeyParts(run_dir)
        self._skips = _SkipFile(run_dir / SKIPS_FILE)
        self._ledger = _RowFile(run_dir / LEDGER_FILE)
        self._metrics = _RowFile(run_dir / METRICS_FILE)
        self._mirror: Mirror | None = None
        if open_wandb is not None:
            self._mirror = open_wandb(config, about, run_dir, self.annotate)

    def write(self, news: Sequence[News]) -> None:
        """When this returns, all of `news` is on disk exactly once and need not be told again.

        When it does not, all of it must be told again: what had already been written is recognised. Skips go first,
        then keys, ledger and metrics, so a step that has a metrics row has all the others."""
        with self._lock:
            left_out = (item for item in news if isinstance(item, HolesNews | VoidedNews))
            skips = self._skips.append_new([row for item in left_out for row in skip_rows(item)])
            self._keys.add(item for item in news if isinstance(item, KeysNews))
            self._ledger.append_new([ledger_row(item) for item in news if isinstance(item, StepNews)])
            self._metrics.append_new([metrics_row(item) for item in news if not isinstance(item, _WITHOUT_ROW)])
            for skip in skips:
                self._metrics.append_note(describe_skip(skip), self._clock.now())
        self._wake_mirror()

    def annotate(self, text: str) -> None:
        """Write down something people should see beside the curves: a restart, a resize, a failing W&B."""
        with self._lock:
            if self._finished:
                return
            self._metrics.append_note(text, self._clock.now())
        self._wake_mirror()

    def finish(self, state: RunState, exit_code: int, reason: str = "") -> None:
        """The run has ended, or pauses until it is resumed. Nothing is written afterwards."""
        end = End(state, int(exit_code), reason)
        self.annotate(end.words)
        if self._mirror is not None:
            self._mirror.finish(end)
        with self._lock:
            self._finished = True
            for file in (self._keys, self._skips, self._ledger, self._metrics):
                file.close()

    def _wake_mirror(self) -> None:
        if self._mirror is not None:
            self._mirror.wake()


class _RowFile:
    """An append-only file that takes each row once."""

    def __init__(self, path: Path) -> None:
        self._last: dict[tuple[int, str, str], float] = {}
        self._at: Row = {"step": 0, "generation": 0}
        self._file = LineFile(path, head={"format": FORMAT})
        for row in read_rows(path):
            self._remember(row)

    def append_new(self, rows: Sequence[Row]) -> None:
        """Rows written before are left out: a scribe that died before it answered is told them again."""
        fresh = [self._at | row for row in rows if place_of(row) > self._last.get(lane_of(row), -1)]
        if fresh:
            self._file.append(fresh, durable=True)
        for row in fresh:
            self._remember(row)

    def append_note(self, text: str, t: float) -> None:
        self._file.append([self._at | {"kind": "note", "t": round(t, 3), "text": text}], durable=True)

    def close(self) -> None:
        self._file.close()

    def _remember(self, row: Row) -> None:
        self._at = {"step": row["step"], "generation": row["generation"]}
        self._last[lane_of(row)] = place_of(row)


class _SkipFile:
    """skips.jsonl: made with the first skip, and each is written once, whoever tells it again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = {_skip_of(row) for row in read_rows(path)}
        self._file: LineFile | None = None

    def append_new(self, rows: Sequence[Row]) -> list[Row]:
        """The rows that had not been written before."""
        fresh = list({_skip_of(row): row for row in rows if _skip_of(row) not in self._known}.values())
        if fresh:
            self._file = self._file or LineFile(self._path, head={"format": FORMAT})
            self._file.append(fresh, durable=True)
            self._known.update(map(_skip_of, fresh))
        return fresh

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _skip_of(row: Row) -> tuple[int, int | None]:
    """What a row skips: a position of a step, or all of the step."""
    return row["step"], row.get("position")
