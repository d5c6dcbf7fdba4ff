"""Reading the logs of a run: the last lines of each, then what is appended, through rotation, restarts and new files.

Processes write them (control/logs.py); the journal says which rank writes which."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from orchestrator.core.clock import Clock
from orchestrator.core.errors import BadInput
from orchestrator.storage.logfiles import LineReader, Position, find_last_lines, list_log_files
from orchestrator.tracking.journal import Event, read_events
from orchestrator.tracking.lease import read_lease
from orchestrator.tracking.rundir import RunDir, view_of

POLL_S = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class LogWish:
    """`rank`: only that one's log. `lines`: the last of each log, None for all. `cursor`: by log, the cursor of the
    last line that an earlier reading gave; logs that are not in it are new, then, and read whole."""

    rank: int | None = None
    follow: bool = False
    lines: int | None = 50
    cursor: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class LogLine:
    """A line of a log. `file` names the log ("rank-h1-0"), `rank` who writes it in the run's newest world."""

    file: str
    rank: int | None
    text: str
    cursor: Position  # after this line

    def to_json(self) -> dict[str, Any]:
        return {"file": self.file, "rank": self.rank, "text": self.text, "cursor": list(self.cursor)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        return cls(file=fields["file"], rank=fields["rank"], text=fields["text"], cursor=Position(*fields["cursor"]))


def rank_log_name(host: str, pid: int) -> str:
    """By process: it may be one rank after another."""
    return f"rank-{host}-{pid}"


def read_log_lines(run_dir: RunDir, wish: LogWish, clock: Clock) -> Iterator[LogLine]:
    """Following ends when the run has ended, or is lost, and everything has been read; a resumed run goes on."""
    reading = _Reading(run_dir.logs, wish)
    rank_found = wish.rank is None
    while True:
        events = list(read_events(run_dir.events))
        view = view_of(events, read_lease(run_dir.lease), run_dir.touched)
        over = view.state.ended or view.lost(clock)  # asked first: what was written before the end is still read
        roster = roster_of(events)
        may_come = not roster.ranks and wish.follow and not over
        rank_found = rank_found or wish.rank in roster.ranks.values()
        if not rank_found and not may_come:
            raise BadInput(f"there is no rank {wish.rank}", where=run_dir.path.name, remedy=_which_ranks(roster))
        yield from reading.read_new(roster, clock.monotonic(), to_the_end=over or not wish.follow)
        if not wish.follow or (over and run_dir.view().generation == view.generation):
            return
        clock.sleep(POLL_S)


@dataclass(frozen=True, slots=True)
class Roster:
    """Which rank writes which log in the newest world, and the ranks that made the run fail, the first one first."""

    ranks: Mapping[str, int]
    culprits: Sequence[int]

    def order(self, log: str) -> tuple[int, int, str]:
        """Where people look first."""
        rank = self.ranks.get(log)
        if rank is None:
            return 2, 0, log
        return (0, self.culprits.index(rank), log) if rank in self.culprits else (1, rank, log)


def roster_of(events: Iterable[Event]) -> Roster:
    ranks: dict[str, int] = {}
    culprits: Sequence[int] = ()
    for event in events:
        if event["event"] == "started":
            ranks, culprits = _ranks_by_log(event.get("ranks", ())), ()
        elif event["event"] in ("fault", "failed"):
            culprits = event.get("culprits", ())
    return Roster(ranks, culprits)


def _ranks_by_log(ranks: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {rank_log_name(place["node"], place["pid"]): rank for rank, place in enumerate(ranks)}


def _which_ranks(roster: Roster) -> str:
    last = len(roster.ranks) - 1
    return f"ranks go from 0 to {last}" if roster.ranks else "the run has not started; leave --rank out to see its logs"


class _Reading:
    """The logs of one run, as far as they have been read."""

    def __init__(self, folder: Path, wish: LogWish) -> None:
        self._folder, self._wish = folder, wish
        self._readers: dict[Path, LineReader] = {}
        self._old: set[Path] | None = None  # logs that were there when reading began

    def read_new(self, roster: Roster, now: float, *, to_the_end: bool) -> Iterator[LogLine]:
        files = list_log_files(self._folder)
        if self._old is None:
            self._old = set(files)
        for path in sorted(files, key=lambda path: roster.order(path.stem)):
            rank = roster.ranks.get(path.stem)
            if self._wish.rank in (None, rank):
                if path not in self._readers:
                    self._readers[path] = LineReader(path, self._begin(path, files[path]))
                for line in self._readers[path].read_new(files[path], now, to_the_end=to_the_end):
                    yield LogLine(file=path.stem, rank=rank, text=line.text, cursor=line.end)

    def _begin(self, path: Path, numbers: Sequence[int]) -> Position:
        wish = self._wish
        if path.stem in wish.cursor:
            return Position(*wish.cursor[path.stem])
        if wish.cursor or wish.lines is None or path not in (self._old or ()):
            return Position(numbers[0], 0)
        return find_last_lines(path, numbers, wish.lines)
