"""Strikes faults at a run that lives: each when its step is done, or so long after the one before.

After watch.py; chaos.py calls it until the run has ended."""

import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from launch.chaos.faults import Fault, Kind
from launch.chaos.hosts import Hosts
from launch.chaos.stage import Stage
from launch.chaos.watch import Process, Watch
from orchestrator.core.clock import Clock
from orchestrator.tracking.rundir import RunDir

_SIGNALS = {Kind.STOP_RANK: signal.SIGSTOP}  # the others are killed
_LOGS = {Kind.KILL_CONTROLLER: "controller.log", Kind.KILL_SCRIBE: "scribe.log"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Struck:
    fault: Fault
    due: float  # seconds since the epoch, when it was seen to be time for it
    t: float  # right before it was struck
    sent: float  # and right after
    step: int  # updates done by then, as far as metrics.jsonl told


class Striker:
    """`struck` is what has been struck until now, `next` what is still to be."""

    def __init__(self, stage: Stage, run_dir: RunDir, faults: Iterable[Fault], clock: Clock) -> None:
        self.struck: list[Struck] = []
        self.next: Fault | None = None
        self._stage, self._run_dir, self._clock = stage, run_dir, clock
        self._watch, self._faults = Watch(run_dir), iter(faults)
        self._hit: set[Process] = set()
        self._cut: list[tuple[float, int]] = []  # until when, which node
        self._since: float | None = None  # when the one before was struck, or the first step was done
        self._due: float | None = None  # since when it has been time for the next one
        self._take_next()

    def look(self) -> None:
        """Strike what is due now."""
        self._watch.look()
        self._mend()
        if self._since is None and self._watch.step:
            self._since = self._clock.monotonic()
        while self.next is not None and self._is_due(self.next):
            t, step = self._clock.now(), self._watch.step
            self._due = self._due or t
            if not self._strike(self.next):
                return  # its process is being replaced: once more at the next look
            self.struck.append(Struck(fault=self.next, due=self._due, t=t, sent=self._clock.now(), step=step))
            self._since, self._due = self._clock.monotonic(), None
            self._take_next()

    def _take_next(self) -> None:
        self.next = next(self._faults, None)

    def _is_due(self, fault: Fault) -> bool:
        if fault.step is not None:
            return self._watch.step >= fault.step
        assert fault.gap_s is not None
        return self._since is not None and self._clock.monotonic() - self._since >= fault.gap_s

    def _strike(self, fault: Fault) -> bool:
        match fault.kind:
            case Kind.KILL_RANK | Kind.STOP_RANK:
                number = fault.number or 0
                return self._send(lambda: self._watch.rank(number), _SIGNALS.get(fault.kind, signal.SIGKILL))
            case Kind.KILL_CONTROLLER | Kind.KILL_SCRIBE:
                log = self._run_dir.logs / _LOGS[fault.kind]
                return self._send(lambda: self._find_actor(log), signal.SIGKILL)
            case _:
                assert isinstance(self._stage, Hosts)  # possible.needs_hosts has seen to it
                self._break_node(fault, self._stage)
                return True

    def _send(self, find: Callable[[], Process | None], number: signal.Signals) -> bool:
        """Not twice to the same process: one that is stopped or dying has nothing left to lose."""
        process = find()
        if process is None or process in self._hit:
            return False
        try:
            self._stage.send(process, number)
        except ProcessLookupError:
            return False
        self._hit.add(process)
        return True

    def _find_actor(self, log: Path) -> Process | None:
        return self._stage.find_actor(self._watch.host, log)

    def _break_node(self, fault: Fault, hosts: Hosts) -> None:
        number = fault.number or 0
        match fault.kind:
            case Kind.KILL_NODE:
                hosts.kill_node(number)
            case Kind.CUT_NODE:
                hosts.cut_node(number)
                self._cut.append((self._clock.monotonic() + (fault.lasts_s or 0.0), number))
            case Kind.ADD_NODE:
                hosts.add_node()

    def _mend(self) -> None:
        now = self._clock.monotonic()
        for until, number in [cut for cut in self._cut if cut[0] <= now]:
            assert isinstance(self._stage, Hosts)
            self._stage.mend_node(number)
            self._cut.remove((until, number))
        if isinstance(self._stage, Hosts) and not self._cut:
            self._stage.tend()
