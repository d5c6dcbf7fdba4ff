"""A rank's batches made ahead of time by threads, bounded in bytes. The last stop before the train step.

There is no state to save: a stream can begin at any step, and what it made ahead does not count until it is used."""

import time
from collections import deque
from concurrent.futures import Future
from types import TracebackType
from typing import NamedTuple, Self

from orchestrator.core.words import World
from orchestrator.data.feeding.batch import BatchMaker, RankBatch
from orchestrator.data.feeding.threads import Threads
from orchestrator.data.ordering.skips import Skips

MOST_AHEAD = 64  # batches; small ones would fill the limit by the thousand, and keep the threads from the next


class Ahead(NamedTuple):
    """A batch in the making, and the memory it will take."""

    future: Future[RankBatch]
    size_bytes: int


class Stream:
    """The batches of steps `first_step` to `stop_step` (exclusive). What fails in a thread is raised when its batch is
    asked for, and ends the stream."""

    def __init__(
        self,
        batches: BatchMaker,
        world: World,
        *,
        first_step: int,
        stop_step: int,
        skips: Skips,
        prefetch_bytes: int,
    ) -> None:
        self.wait_s = 0.0  # how long the latest batch was waited for
        self._batches, self._world, self._skips = batches, world, skips
        self._next_step, self._stop_step = first_step, stop_step
        self._limit_bytes, self._ahead_bytes = prefetch_bytes, 0
        self._threads = Threads(batches.workers, "stream")
        self._ahead: deque[Ahead] = deque()
        self._run_ahead()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> RankBatch:
        if not self._ahead:
            raise StopIteration
        ready = self._ahead.popleft()
        self._ahead_bytes -= ready.size_bytes
        self._run_ahead()
        began = time.perf_counter()
        problem = ready.future.exception()
        self.wait_s = time.perf_counter() - began
        if problem is not None:
            self.close()
            raise problem
        return ready.future.result()

    def close(self) -> None:
        """Stop making batches and close the maker; a thread that waits for a store ends behind. The stream is at its
        end then."""
        self._stop_step = self._next_step
        self._ahead.clear()
        self._threads.close()
        self._batches.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run_ahead(self) -> None:
        """Ask for as many batches as fit into the limit, and always for one."""
        while self._next_step < self._stop_step and len(self._ahead) < MOST_AHEAD:
            size_bytes = self._batches.size_bytes(self._next_step, self._world)
            if self._ahead and self._ahead_bytes + size_bytes > self._limit_bytes:
                return
            future = self._threads.submit(self._batches.make, self._next_step, self._world, self._skips)
            self._ahead.append(Ahead(future, size_bytes))
            self._ahead_bytes += size_bytes
            self._next_step += 1
