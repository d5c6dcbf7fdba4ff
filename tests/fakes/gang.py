"""A gang: N processes that run one function together, with a store to meet on. All are gone when it returns.

They are forked from one process a session that has imported what they need, as ranks are from a nursery: importing it
takes each of them 6 seconds. Nothing of this repository is imported there, lest it be another copy of it."""

import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any
from unittest import mock

from torch.distributed import FileStore, Store

IMPORTED = ["torch", "deepspeed", "transformers.models.llama.modeling_llama"]


class GangFailed(Exception):
    """A member raised, died, or was not ready in time."""


def run_gang(size: int, work: Callable[..., Any], *args: Any, deadline_s: float = 120.0) -> list[Any]:
    """Call work(rank, size, store, *args) in `size` new processes; their results, in order of ranks.

    `work` must be importable by name; members have the environment that the first gang began with. The first failure or
    the deadline ends every member."""
    context = _open_nursery()
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


@cache
def _open_nursery() -> ForkServerContext:
    """Returns when the imports are done, so that no deadline runs meanwhile."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    first = context.Process(target=int)
    with mock.patch.dict(os.environ, DS_ACCELERATOR="cpu"):  # else DeepSpeed begins CUDA, which does not survive a fork
        first.start()
    first.join()
    return context


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
