"""A gang: N processes that run one function together, with a store to meet on. All are gone when it returns."""

import multiprocessing
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from torch.distributed import FileStore, Store


class GangFailed(Exception):
    """A member raised, died, or was not ready in time."""


def run_gang(size: int, work: Callable[..., Any], *args: Any, deadline_s: float = 120.0) -> list[Any]:
    """Call work(rank, size, store, *args) in `size` new processes; their results, in order of ranks.

    `work` must be importable by name. The first failure or the deadline ends every member."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="gang") as folder:
        pipes, members = [], []
        try:
            for rank in range(size):
                mine, theirs = context.Pipe(duplex=False)
                job = (theirs, work, rank, size, str(Path(folder) / "store"), deadline_s, args)
                member = context.Process(target=_member, args=job, daemon=True)
                member.start()
                theirs.close()
                pipes.append(mine)
                members.append(member)
            return _collect(pipes, time.monotonic() + deadline_s)
        finally:
            for member in members:
                member.kill()
                member.join()
            for pipe in pipes:
                pipe.close()


def _collect(pipes: list[Connection], deadline: float) -> list[Any]:
    results: dict[int, Any] = {}
    while len(results) < len(pipes):
        waiting = {pipe: rank for rank, pipe in enumerate(pipes) if rank not in results}
        ready = wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            raise GangFailed(f"ranks {sorted(waiting.values())} were not done in time")
        for pipe in ready:
            rank = waiting[pipe]
            try:
                problem, results[rank] = pipe.recv()
            except EOFError:
                raise GangFailed(f"rank {rank} died without a word") from None
            if problem:
                raise GangFailed(f"rank {rank} raised:\n{problem}")
    return [results[rank] for rank in range(len(pipes))]


def _member(
    pipe: Connection, work: Callable[..., Any], rank: int, size: int, path: str, timeout_s: float, args: tuple[Any, ...]
) -> None:
    try:
        store: Store = FileStore(path, size)
        store.set_timeout(timedelta(seconds=timeout_s))
        pipe.send(("", work(rank, size, store, *args)))
    except BaseException:
        pipe.send((traceback.format_exc(), None))
        raise
