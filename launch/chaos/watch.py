"""What a run shows while it lives, for whoever breaks it: how far it is, and which process is which rank.

Reads metrics.jsonl and the journal as they grow, and now.json; strike.py asks."""

from dataclasses import dataclass

from orchestrator.storage.lines import LineTail
from orchestrator.tracking.journal import generation_file, generations
from orchestrator.tracking.now import RankNow, read_now
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
                    self._generation = generation
        for rank in self._at_work():  # the scribe may be late, as at the beginning
            self.step = max(self.step, rank.step)

    def rank(self, number: int) -> Process | None:
        """Of the newest world; None when it has no such rank, or is not seen at work yet."""
        found = (rank for rank in self._at_work() if rank.rank == number)
        return next((Process(rank.host, rank.pid) for rank in found), None)

    def _at_work(self) -> list[RankNow]:
        """As the controller saw them, about a second ago; none as long as it has not seen the newest world."""
        now = read_now(self._run_dir.path)
        if now is None or now.generation < self._generation:
            return []
        return [rank for rank in now.ranks if rank.state == "training"]
