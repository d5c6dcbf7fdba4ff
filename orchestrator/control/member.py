"""One rank process as its node actor knows it, from the fork to its death. A thread listens to it; seats.py has them.

Its death is seen at once, by its pidfd: the connection may be held open by processes that it has made."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from orchestrator.control.board import Board
from orchestrator.control.jobs import (
    Abort,
    Assignment,
    Free,
    NewsParcel,
    Problem,
    RankEnd,
    RankJob,
    RankReport,
    RankSetup,
    RankState,
    ShowStacks,
)
from orchestrator.control.rank import STACKS_SIGNAL
from orchestrator.core.news import News

log = logging.getLogger(__name__)
NURSERY_TIMEOUT_S = 60.0


class Nursery(Protocol):
    """Forks what is asked of it over the connection (nursery.py)."""

    def connect(self, timeout_s: float) -> Connection: ...


Carry = Callable[[Sequence[News], Callable[[], None]], None]  # on its way to disk; then the other is called


class Member:
    def __init__(self, setup: RankSetup, board: Board, stacks: int, carry: Carry) -> None:
        self.board, self.pid, self.born = board, 0, time.monotonic()
        self.state, self.is_free = RankState.WARMING, False
        self.seat: int | None = None
        self.job: RankJob | None = None  # the last one
        self.evidence = ""
        self._setup, self._stacks, self._carry = setup, stacks, carry
        self._lock, self._sending, self._settling = threading.RLock(), threading.Lock(), threading.Lock()
        self._connection: Connection | None = None
        self._handle, self._is_killed = -1, False  # its pidfd
        self._begun = self._settled = 0
        self._end: RankEnd | None = None
        self._problem: Problem | None = None

    @classmethod
    def make(cls, carry: Carry, **setup: Any) -> "Member":
        """With a board and room for its stacks; the rest of a RankSetup is given."""
        board, path = Board.create()
        stacks = os.memfd_create("longhaul-stacks")
        whole = RankSetup(board=path, stacks=f"/proc/{os.getpid()}/fd/{stacks}", node_actor_pid=os.getpid(), **setup)
        return cls(whole, board, stacks, carry)

    # ---- what is asked of it ----

    def assign(self, job: RankJob, seat: int) -> None:
        """It has that place from now on; the assignment itself is sent apart."""
        with self._lock:
            self.job, self.seat, self.is_free = job, seat, False
            self._end, self._problem, self._begun = None, None, self.board.begun
            if self.state is not RankState.DIED:
                self.state = RankState.TRAINING

    def send(self, message: Assignment | Abort | ShowStacks | int) -> None:
        with self._sending, suppress(OSError):  # it has just died; the listener knows
            if self._connection is not None:
                self._connection.send(message)

    def kill(self, why: str) -> None:
        """Also a frozen one."""
        with self._lock:
            if self._handle >= 0 and not self._is_killed:
                self._is_killed, self.evidence = True, why
                self._signal(signal.SIGKILL)

    def note(self, evidence: str) -> None:
        """What is known against it while it lives."""
        with self._lock:
            if not self._is_killed:
                self.evidence = evidence

    def ask_for_stacks(self, *, by_signal: bool = False) -> None:
        """They can be read soon, if it is alive enough. The signal is for one that does not answer (rank.py)."""
        with self._lock:
            if self._handle < 0:
                return
            os.truncate(self._stacks, 0)
            if by_signal:
                self._signal(STACKS_SIGNAL)
        if not by_signal:
            self.send(ShowStacks())

    def read_stacks(self) -> str:
        """Nothing of one that is dead."""
        with self._lock:
            return Path(f"/proc/self/fd/{self._stacks}").read_text(errors="replace") if self._stacks >= 0 else ""

    def report(self) -> RankReport:
        with self._lock:
            job = self.job
            return RankReport(
                rank=job.world.rank if job is not None and self.seat is not None else None,
                local_rank=self.seat,
                pid=self.pid,
                state=self.state,
                is_free=self.is_free,
                generation=job.generation if job is not None else 0,
                trained=job is not None and self.board.begun > self._begun,
                evidence=self.evidence,
                step=self.board.step,
                phase=self.board.phase,
                busy_s=self.board.busy_s,
                end=self._end,
                problem=self._problem,
            )

    # ---- its life ----

    def live(self, nursery: Nursery, changed: Callable[[], None]) -> None:
        """Have it forked, and listen to it until it is dead."""
        try:
            with nursery.connect(NURSERY_TIMEOUT_S) as connection:
                connection.send(self._setup)
                self._begin(connection, connection.recv())
                changed()
                self._listen(connection, changed)
        except (OSError, EOFError, AuthenticationError) as error:
            log.warning("rank process %d died: %s", self.pid, type(error).__name__)
        finally:
            self._bury()
            changed()

    def _begin(self, connection: Connection, pid: int) -> None:
        with self._lock:
            self.pid, self._handle, self._connection = pid, os.pidfd_open(pid), connection

    def _listen(self, connection: Connection, changed: Callable[[], None]) -> None:
        """What it had sent before its death is heard all the same."""
        while connection in wait([connection, self._handle]) or connection.poll():
            if self._hear(connection.recv()):
                changed()

    def _hear(self, message: NewsParcel | RankEnd | Problem | Free) -> bool:
        """Whether it is more than news."""
        with self._lock:
            match message:
                case NewsParcel(news):
                    self._carry(news, lambda: self._settle(len(news)))
                    return False
                case RankEnd():
                    self._end, self.state = message, RankState.ENDED
                case Problem():
                    self._problem, self.state = message, RankState.RAISED
                case Free():
                    self.is_free = True
                    self.state = RankState.READY if self.state is RankState.WARMING else self.state
                    self.note("")
        return True

    def _settle(self, count: int) -> None:
        """From the threads of the courier: what is sent never falls."""
        with self._settling:
            self._settled += count
            self.send(self._settled)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, number)

    def _bury(self) -> None:
        with self._lock:
            self.state, self.is_free = RankState.DIED, False
            for handle in (self._handle, self._stacks):
                if handle >= 0:
                    os.close(handle)
            self._handle = self._stacks = -1
            self.board.close()
