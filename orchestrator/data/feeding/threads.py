"""Threads that make batches and that nobody has to wait for. stream.py and sampled.py use them.

A thread may wait a quarter of an hour for a store that is down. ThreadPoolExecutor would keep whoever is done with the
stream, and the end of the process, waiting with it."""

import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any, ParamSpec, TypeVar

CLOSE_WAIT_S = 0.25  # for what is nearly done: who leaves a broken world has little time
P = ParamSpec("P")
T = TypeVar("T")
Task = tuple[Future[Any], Callable[[], Any]]


class Threads:
    """At most `number` threads, each begun when there is work for it. They end with their owner."""

    def __init__(self, number: int, name: str) -> None:
        self._number, self._name = number, name
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._begun: list[Thread] = []
        self._lock = Lock()
        self._end = weakref.finalize(self, _end_threads, self._tasks, number)

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a thread call it, in its turn."""
        future: Future[T] = Future()
        with self._lock:
            if not self._end.alive:
                raise RuntimeError("these threads are closed")
            self._tasks.put((future, lambda: function(*args, **kwargs)))
            if len(self._begun) < self._number:
                name = f"{self._name}_{len(self._begun)}"
                thread = Thread(target=_work, args=(self._tasks,), name=name, daemon=True)
                self._begun.append(thread)
                thread.start()
        return future

    def map(self, function: Callable[..., T], *columns: Iterable[Any]) -> Iterator[T]:
        """What the function makes of each row of the columns, in their order."""
        futures = [self.submit(function, *row) for row in zip(*columns, strict=True)]
        return (future.result() for future in futures)

    def close(self) -> None:
        """Begin nothing more. What is under way goes on alone unless it ends soon."""
        with self._lock:
            self._end()
        deadline = time.monotonic() + CLOSE_WAIT_S
        for thread in self._begun:
            thread.join(max(0.0, deadline - time.monotonic()))


def _end_threads(tasks: SimpleQueue[Task | None], number: int) -> None:
    with suppress(Empty):
        while task := tasks.get_nowait():
            task[0].cancel()
    for _ in range(number):
        tasks.put(None)


def _work(tasks: SimpleQueue[Task | None]) -> None:
    while (task := tasks.get()) is not None:
        _call(*task)
        del task  # or its batch would live until the next one is asked for


def _call(future: Future[Any], function: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except BaseException as error:  # noqa: BLE001 - the boundary: raised where the result is asked for
        future.set_exception(error)
