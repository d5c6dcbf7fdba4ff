"""The watch of a node over its ranks: who is stopped, and who holds up the others. Looks at seats.py, kills, and tells
where whoever is killed was; stacks.py reads what a rank is doing.

A silent rank is never killed for its silence alone: one regular expression can hold the interpreter for seconds. One
without progress shows its stacks, and if it waits for others there, the fault is elsewhere."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from orchestrator.config.running import ElasticSection
from orchestrator.control.bell import Bell
from orchestrator.control.jobs import RankState
from orchestrator.control.member import Member
from orchestrator.control.seats import Seats
from orchestrator.control.stacks import describe_place, waits_for_others

log = logging.getLogger(__name__)
MOST_OFTEN_S = 0.5
STEPS_TO_WAIT = 3  # of auto: times the longest step of the job until now
STACKS_TIMEOUT_S = 0.5  # for each way of asking
LAST_LOOK_S = 0.25  # the same, where somebody waits for its death
LOOK_PAUSE_S = 0.05
BLINK_S = 2.0  # a longer pause between two looks: the machine was asleep, or has too much to do
STOPPED = "T"  # of /proc/<pid>/stat; a process that is being traced has another letter


class Sight(NamedTuple):
    """One rank process at one moment."""

    pid: int
    generation: int  # of its last job
    process: str  # its letter in /proc/<pid>/stat
    phase: str
    progress: int  # changes with everything that it shows


class Finding(NamedTuple):
    pid: int
    is_stopped: bool  # otherwise it is late
    seconds: float


@dataclass(slots=True)
class _Seen:
    """What is remembered of a rank."""

    generation: int
    progress: int
    since: float  # it has shown this progress
    stopped_since: float | None = None
    longest_s: float | None = None  # of the steps of this job until now


class Patience:
    """Says who has tried it: pure, over what is seen one time after another."""

    def __init__(self, elastic: ElasticSection, blink_s: float = BLINK_S) -> None:
        self._elastic, self._blink_s = elastic, blink_s
        self._seen: dict[int, _Seen] = {}
        self._looked: float | None = None

    def look(self, sights: Sequence[Sight], now: float) -> list[Finding]:
        self._forgive(now)
        self._seen = {one.pid: self._remember(one, now) for one in sights}
        return [finding for one in sights if (finding := self._judge(one, self._seen[one.pid], now))]

    def _forgive(self, now: float) -> None:
        """Where the watch itself could not look for a while, neither could the ranks do anything."""
        blind_s = now - self._looked if self._looked is not None else 0.0
        self._looked = now
        if blind_s > self._blink_s:
            for seen in self._seen.values():
                seen.since += blind_s
                seen.stopped_since = None

    def _remember(self, sight: Sight, now: float) -> _Seen:
        seen = self._seen.get(sight.pid)
        if seen is None or seen.generation != sight.generation:
            seen = _Seen(generation=sight.generation, progress=sight.progress, since=now)
        if sight.progress != seen.progress:
            took_s = now - seen.since
            seen.longest_s = max(seen.longest_s or 0.0, took_s)
            seen.progress, seen.since = sight.progress, now
        if sight.process != STOPPED:
            seen.stopped_since = None
        elif seen.stopped_since is None:
            seen.stopped_since = now
        return seen

    def _judge(self, sight: Sight, seen: _Seen, now: float) -> Finding | None:
        if seen.stopped_since is not None:
            stopped_s = now - seen.stopped_since
            return Finding(sight.pid, True, stopped_s) if stopped_s >= self._elastic.heartbeat_timeout_s else None
        limit_s = self._limit_s(seen)
        if sight.phase == "step" and limit_s is not None and now - seen.since > limit_s:
            return Finding(sight.pid, False, now - seen.since)
        return None

    def _limit_s(self, seen: _Seen) -> float | None:
        """None: nobody knows how long is too long. The first step of a job may have to compile."""
        limit = self._elastic.step_timeout_s
        if limit != "auto":
            return limit
        if seen.longest_s is None:
            return None
        return max(self._elastic.heartbeat_timeout_s, STEPS_TO_WAIT * seen.longest_s)


class Watch:
    """The thread that looks, and acts. `find_helpers`: pids of what ranks need, which is replaced when it dies."""

    def __init__(
        self,
        seats: Seats,
        elastic: ElasticSection,
        logs: Path,
        host: str,
        bell: Bell,
        find_helpers: Callable[[], Sequence[int]] = tuple,
    ) -> None:
        self._seats, self._logs, self._host, self._bell = seats, logs, host, bell
        self._find_helpers = find_helpers
        self._patience = Patience(elastic)
        self._every_s = min(MOST_OFTEN_S, elastic.heartbeat_timeout_s / 10)
        self._asked: dict[int, float] = {}  # by pid, when it may be asked for its stacks again

    def start(self) -> None:
        threading.Thread(target=self._look_for_ever, name="watch", daemon=True).start()

    def kill(self, pids: Collection[int], why: str) -> None:
        """Soon: where they are is looked at before, and whoever gets free meanwhile lives. Nobody waits for it."""
        for member in self._seats.members:
            if member.pid in pids:
                threading.Thread(target=self._look_and_kill, args=(member, why), name="kill", daemon=True).start()

    def _look_and_kill(self, member: Member, why: str) -> None:
        text = _take_stacks(member, LAST_LOOK_S)
        if not member.is_free:
            member.kill(f"{why}: {self._describe(member, text)}")
            self._keep(member, text)

    def _look_for_ever(self) -> None:
        while True:
            time.sleep(self._every_s)
            members = {one.pid: one for one in self._seats.members if one.pid and one.state is not RankState.DIED}
            helpers = [pid for pid in self._find_helpers() if pid]
            found = [*map(_see, members.values()), *map(_see_helper, helpers)]
            sights = [sight for sight in found if sight is not None]
            now = time.monotonic()
            findings = self._patience.look(sights, now)
            for finding in findings:
                if finding.pid in members:
                    self._act(members[finding.pid], finding, now)
                else:
                    _kill_helper(finding)
            for pid in members.keys() - {finding.pid for finding in findings}:
                members[pid].note("")

    def _act(self, member: Member, finding: Finding, now: float) -> None:
        if finding.is_stopped:
            member.kill(f"stopped for {finding.seconds:.1f} s")
        elif now >= self._asked.get(member.pid, 0.0):
            self._asked[member.pid] = now + finding.seconds
            self._find_out(member, finding.seconds)

    def _find_out(self, member: Member, seconds: float) -> None:
        """Where it is stuck. It is left alone if it waits for others, and if it has gone on meanwhile."""
        progress = member.board.progress
        text = _take_stacks(member, STACKS_TIMEOUT_S)
        if member.board.progress != progress:
            return
        if text and waits_for_others(text):
            member.note(f"waits for other ranks for {seconds:.1f} s in {describe_place(text)}")
            self._bell.ring()
            return
        self._keep(member, text)
        member.kill(f"no progress for {seconds:.1f} s, {self._describe(member, text)}")

    def _describe(self, member: Member, text: str) -> str:
        if not text:
            return "shows no stacks"
        return f"stuck in {describe_place(text)}; stacks in {self._file_of(member).name}"

    def _keep(self, member: Member, text: str) -> None:
        if text:
            self._file_of(member).write_text(text)

    def _file_of(self, member: Member) -> Path:
        return self._logs / f"stacks-{self._host}-{member.pid}.txt"


def _see(member: Member) -> Sight | None:
    letter = _letter_of(member.pid)
    if letter is None:
        return None
    generation = member.job.generation if member.job is not None else 0
    return Sight(member.pid, generation, letter, member.board.phase, member.board.progress)


def _see_helper(pid: int) -> Sight | None:
    """One that is stopped holds up every rank; it shows nothing else."""
    letter = _letter_of(pid)
    return Sight(pid, 0, letter, "", 0) if letter is not None else None


def _letter_of(pid: int) -> str | None:
    """None: it is dead."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[0]


def _kill_helper(finding: Finding) -> None:
    log.warning("process %d, which ranks need, is stopped for %.1f s: ended", finding.pid, finding.seconds)
    with suppress(ProcessLookupError):
        os.kill(finding.pid, signal.SIGKILL)


def _take_stacks(member: Member, timeout_s: float) -> str:
    """Nothing, where not even a signal gets through. Each of the two ways has so long."""
    return _ask_for_stacks(member, timeout_s, by_signal=False) or _ask_for_stacks(member, timeout_s, by_signal=True)


def _ask_for_stacks(member: Member, timeout_s: float, *, by_signal: bool) -> str:
    member.ask_for_stacks(by_signal=by_signal)
    deadline, text = time.monotonic() + timeout_s, ""
    while time.monotonic() < deadline:
        time.sleep(LOOK_PAUSE_S)
        before, text = text, member.read_stacks()
        if text and text == before:
            break
    return text
