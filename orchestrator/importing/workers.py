"""Maps a function over jobs in processes of this machine. They end with the command, however it ends."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from threading import Thread
from typing import TypeVar

from orchestrator.core.errors import LonghaulError
from orchestrator.core.mapping import RunAll, run_serially

J = TypeVar("J")
R = TypeVar("R")


@contextmanager
def worker_processes(count: int) -> Iterator[RunAll]:
    """One worker is this process."""
    if count == 1:
        yield run_serially
        return
    reader, writer = Pipe(duplex=False)
    pool = ProcessPoolExecutor(count, get_context("spawn"), initializer=_live_with, initargs=(reader,))

    def run_all(function: Callable[[J], R], jobs: Iterable[J], /) -> Iterator[R]:
        return _run_on(pool, 2 * count, function, iter(jobs))

    try:
        yield run_all
    except BaseException:
        writer.close()  # do not wait for what is under way
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        writer.close()
        reader.close()


def _run_on(pool: ProcessPoolExecutor, limit: int, function: Callable[[J], R], jobs: Iterator[J]) -> Iterator[R]:
    """At most `limit` jobs are handed out at a time."""
    running: set[Future[R]] = set()
    try:
        while True:
            with _deaf_from_birth():  # the pool starts its processes as jobs come
                running |= {pool.submit(function, job) for job in islice(jobs, limit - len(running))}
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    except BrokenProcessPool as error:
        raise LonghaulError(
            "a worker process was killed, perhaps for want of memory",
            remedy="run the same command again with fewer --workers: it goes on where it stopped",
        ) from error


@contextmanager
def _deaf_from_birth() -> Iterator[None]:
    """Processes that are started inside never hear Ctrl-C, which would end a starting Python with a traceback; this one
    hears it at the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _live_with(reader: Connection) -> None:
    """In a worker: without the command there is nothing to do."""
    Thread(target=_end_with, args=(reader,), daemon=True).start()


def _end_with(reader: Connection) -> None:
    """Its other end closes when the command does so, or is gone."""
    reader.poll(None)
    os._exit(1)
