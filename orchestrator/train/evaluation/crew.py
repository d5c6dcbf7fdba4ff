"""Processes of this machine that form one world for a while. One of them is enough for most evaluations, and is then
this very process; a model that ZeRO-3 spreads over devices needs one a device."""

import multiprocessing
import signal
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, TypeVar

from torch.distributed import FileStore, HashStore, Store  # type: ignore[attr-defined]

from orchestrator.core.errors import LonghaulError, TrainingFailed

T = TypeVar("T")
Work = Callable[[int, int, Store], T]  # rank, how many, where they meet
TIMEOUT_S = 1800.0  # of one collective: a rank may wait for another's data that long


def run_crew(size: int, work: Work[T]) -> T:
    """What rank 0 returns. `work` is pickled; what a member raises ends them all, and is raised here."""
    if size == 1:
        return work(0, 1, HashStore())
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="longhaul-") as folder:
        members: dict[Connection, SpawnProcess] = {}
        try:
            for rank in range(size):
                mine, theirs = context.Pipe(duplex=False)
                member = context.Process(target=_serve, args=(theirs, rank, size, Path(folder) / "store", work))
                member.start()
                theirs.close()
                members[mine] = member
            answer: T = _collect(list(members)).value
            return answer
        finally:
            for pipe, member in members.items():
                member.kill()
                member.join()
                pipe.close()


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one member came to."""

    value: Any = None
    problem: LonghaulError | None = None


def _collect(pipes: list[Connection]) -> _Answer:
    """That of rank 0, once all have answered."""
    answers: dict[Connection, _Answer] = {}
    while len(answers) < len(pipes):
        for pipe in wait([pipe for pipe in pipes if pipe not in answers]):
            assert isinstance(pipe, Connection)
            try:
                answers[pipe] = pipe.recv()
            except EOFError:
                raise TrainingFailed(
                    "ended without a word: perhaps memory", where=f"rank {pipes.index(pipe)}"
                ) from None
            if (problem := answers[pipe].problem) is not None:
                raise problem
    return answers[pipes[0]]


def _serve(pipe: Connection, rank: int, size: int, meet_at: Path, work: Work[T]) -> None:
    """One member's life. What is no error of ours is raised here too, for its traceback to be seen."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever waits for this process hears it, and ends it
    store = FileStore(str(meet_at), size)
    store.set_timeout(timedelta(seconds=TIMEOUT_S))
    try:
        answer = _Answer(value=work(rank, size, store))
    except LonghaulError as error:
        answer = _Answer(problem=error)
    except Exception as error:
        pipe.send(_Answer(problem=TrainingFailed(f"{type(error).__name__}: {error}", where=f"rank {rank}")))
        raise
    pipe.send(answer if rank == 0 or answer.problem is not None else _Answer())
