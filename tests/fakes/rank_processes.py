"""Rank processes that train nothing: real processes, boards and connections, forked by a nursery without torch.

What such a rank does in a job is named by the key of the job's run: see WORKS."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from orchestrator.control.abort import WayOut
from orchestrator.control.bell import Bell
from orchestrator.control.board import Board
from orchestrator.control.jobs import Free, Problem, RankEnd, RankJob, RankReport, RankSetup, RunHandle, Seat, VaultDoor
from orchestrator.control.line import Line
from orchestrator.control.member import Member
from orchestrator.control.membership import choose_seats
from orchestrator.control.nursery import NurseryAddress, fork_for_all
from orchestrator.control.rank import end_with_its_owners, show_stacks_when_asked, write_stacks
from orchestrator.control.seats import Seats
from orchestrator.core.news import News, NoteNews
from orchestrator.core.words import RunState, Word, World

TIMEOUT_S = 20.0
HELD = threading.Lock()  # by nobody but a rank that hangs


def live(connection: Connection, setup: RankSetup) -> None:
    board = Board.open(setup.board)
    end_with_its_owners(setup, board)
    show_stacks_when_asked(setup)
    way_out = WayOut()
    line = Line(connection, way_out, lambda: os._exit(1), partial(write_stacks, setup))
    line.say(os.getpid())
    while True:
        line.say(Free())
        assignment = line.next_assignment()
        line.say(WORKS[assignment.job.run.key](board, line, way_out, assignment.job))
        way_out.leave()
        board.show(board.step, "")


def _step(board: Board, line: Line, way_out: WayOut, job: RankJob) -> RankEnd | Problem:
    """On and on, until it is to leave or to get out."""
    step = 0
    while not way_out.was_taken:
        if board.word() is Word.LEAVE:
            return RankEnd(state=RunState.RUNNING, step=step)
        board.show(step, "step")
        step += 1
        time.sleep(0.01)
    return problem(job, collateral=True)


def _tell(board: Board, line: Line, way_out: WayOut, job: RankJob) -> RankEnd:
    for step in range(5):
        line.tell(NoteNews(step=step, generation=job.generation, t=0.0, text=f"of rank {job.world.rank}"))
    line.flush()
    return RankEnd(state=RunState.DONE, step=5)


def _raise(board: Board, line: Line, way_out: WayOut, job: RankJob) -> Problem:
    return problem(job, collateral=False)


def _hang(board: Board, line: Line, way_out: WayOut, job: RankJob) -> RankEnd:
    """One step, and then it waits for what never comes."""
    board.show(0, "step")
    time.sleep(0.05)
    board.show(1, "step")
    HELD.acquire()
    HELD.acquire()
    raise AssertionError


def _wait(board: Board, line: Line, way_out: WayOut, job: RankJob) -> RankEnd:
    """As _hang, in what looks like a collective."""
    board.show(0, "step")
    time.sleep(0.05)
    board.show(1, "step")
    exec(compile("import time\ntime.sleep(20)", "/torch/distributed/distributed_c10d.py", "exec"))
    raise AssertionError


def _fork(board: Board, line: Line, way_out: WayOut, job: RankJob) -> RankEnd | Problem:
    """With a process of its own that has inherited everything."""
    if os.fork() == 0:
        time.sleep(TIMEOUT_S)
        os._exit(0)
    return _step(board, line, way_out, job)


WORKS: dict[str, Callable[[Board, Line, WayOut, RankJob], Any]] = {
    "step": _step,
    "tell": _tell,
    "raise": _raise,
    "hang": _hang,
    "wait": _wait,
    "fork": _fork,
}


def problem(job: RankJob, *, collateral: bool) -> Problem:
    return Problem(
        rank=job.world.rank, node="here", step=1, kind="ValueError", message="bad", traceback="", t=0.0,
        collateral=collateral,
    )  # fmt: skip


def job_of(work: str, generation: int, rank: int, size: int) -> RankJob:
    return RankJob(
        run=RunHandle(path=Path("nowhere"), key=work), generation=generation, world=World.flat(rank, size, rank, size),
        micro_batch=1, accumulation=1, store_host="127.0.0.1", store_port=1, timeout_s=TIMEOUT_S, start=None,
        snapshots=False, buddy=None,
    )  # fmt: skip


class Bench:
    """Seats of one node with such ranks, and what is known of them."""

    def __init__(self, folder: Path, count: int, spares: int) -> None:
        self.news: list[News] = []
        self.bell = Bell()
        self._folder = folder
        self._nursery = NurseryAddress.invent("cpu")
        listener, watched = self._nursery.listen(), os.pidfd_open(os.getpid())
        self.nursery_pid = os.fork()
        if self.nursery_pid == 0:
            fork_for_all(listener, watched, live)
            os._exit(0)
        listener.close()
        os.close(watched)
        doors = [VaultDoor(socket="", token="", local_rank=number, slots=()) for number in range(count)]
        self.seats = Seats(
            [Seat("cpu", door) for door in doors], spares,
            recruit=self.recruit, nursery=self._nursery, carry=self.carry, bell=self.bell, lease_s=TIMEOUT_S,
        )  # fmt: skip
        self.wait_for(lambda reports: sum(one.is_free for one in reports) == count + spares)

    def recruit(self, carry: Any) -> Member:
        return Member.make(carry, host="here", run=self._folder, device="cpu", threads=1, env={})

    def carry(self, news: Sequence[News], delivered: Callable[[], None]) -> None:
        self.news += news
        delivered()

    def train(self, generation: int, *works: str, pids: Sequence[int] | None = None) -> None:
        """As a controller that knows who is free, or that thinks of these."""
        jobs = [job_of(work, generation, rank, len(works)) for rank, work in enumerate(works)]
        self.seats.train(jobs, pids or [one.pid for one in choose_seats(self.seats.report(), len(jobs))])

    def wait_for(self, is_so: Callable[[tuple[RankReport, ...]], object]) -> tuple[RankReport, ...]:
        """As a controller does: a look after every ring. The reports that were so."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            version = self.bell.version
            reports = self.seats.report()
            if is_so(reports):
                return reports
            assert time.monotonic() < deadline, f"it has not come about: {reports}"
            self.bell.wait(version, 0.02)

    def end(self) -> None:
        self.seats.end()
        os.kill(self.nursery_pid, 9)
        os.waitpid(self.nursery_pid, 0)


@contextmanager
def bench_of(folder: Path, count: int, spares: int) -> Iterator[Bench]:
    bench = Bench(folder, count, spares)
    try:
        yield bench
    finally:
        bench.end()
