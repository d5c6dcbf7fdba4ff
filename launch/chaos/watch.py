"""What a run shows while it lives, for whoever breaks it: how far it is, and which process is which rank.

Reads metrics.jsonl and the journal as they grow, and now.json; strike.py asks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.storage.lines import LineTail
from orchestrator.tracking.journal import generation_file, generations
from orchestrator.tracking.now import read_now
from orchestrator.tracking.rows import METRICS_FILE
from orchestrator.tracking.rundir import RunDir


@dataclass(frozen=True, slots=True)
class Process:
    """On that host; on a machine of one host the name does not matter."""

    host: str
    pid: int


class Watch:
    """Look first, then ask."""

    def __init__(self, run_dir: RunDir) -> None:
        self.step = 0  # updates done, at the most that any world has come to
        self.host = ""  # the controller's
        self._run_dir = run_dir
        self._metrics = LineTail(run_dir.path / METRICS_FILE)
        self._journals: dict[int, LineTail] = {}
        self._generation = 0  # of the newest world
        self._ranks: Sequence[dict[str, Any]] = ()  # its own, in order

    def look(self) -> None:
        for row in self._metrics.read_new():
            if "kind" not in row and "step" in row:
                self.step = max(self.step, row["step"] + 1)
        for generation in generations(self._run_dir.events):
            path = generation_file(self._run_dir.events, generation)
            for event in self._journals.setdefault(generation, LineTail(path)).read_new():
                if event["event"] == "claimed":
                    self.host = event["host"]
                if event["event"] == "started":
                    self._generation, self._ranks = generation, event["ranks"]
        self.step = max(self.step, self._step_shown())

    def rank(self, number: int) -> Process | None:
        """Of the newest world, though it may only be about to begin; None when it has no such rank."""
        if number >= len(self._ranks):
            return None
        return Process(self._ranks[number]["node"], self._ranks[number]["pid"])

    def _step_shown(self) -> int:
        """About a second ago, by the controller: the scribe may be later, as at the beginning."""
        now = read_now(self._run_dir.path)
        if now is None or now.generation < self._generation:
            return 0
        return max((rank.step for rank in now.ranks if rank.state == "training"), default=0)
