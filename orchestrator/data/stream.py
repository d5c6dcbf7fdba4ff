"""A rank's batches made ahead of time by one thread, bounded in bytes. The last stop before the train step.

There is no state to save: a stream can begin at any step, and what it made ahead does not count until it is used."""

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple, Self

from orchestrator.core.words import World
from orchestrator.data.batch import RankBatch, fill_batch
from orchestrator.data.order import SlotOrder, rank_slice
from orchestrator.data.read import TokenReader
from orchestrator.data.skips import Skips


class Ahead(NamedTuple):
    """A batch in the making, and the memory it will take."""

    future: Future[RankBatch]
    size_bytes: int


class Stream:
    """The batches of steps `first_step` to `stop_step` (exclusive). What fails in the thread is raised here."""

    def __init__(
        self,
        order: SlotOrder,
        reader: TokenReader,
        world: World,
        *,
        first_step: int,
        stop_step: int,
        skips: Skips,
        prefetch_bytes: int,
    ) -> None:
        self.wait_s = 0.0  # how long the latest batch was waited for
        self._order, self._reader, self._world, self._skips = order, reader, world, skips
        self._next_step, self._stop_step = first_step, stop_step
        self._limit_bytes, self._ahead_bytes = prefetch_bytes, 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stream")
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
        """Stop making batches and wait for the thread. The stream is at its end then."""
        self._stop_step = self._next_step
        self._ahead.clear()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run_ahead(self) -> None:
        """Ask for as many batches as fit into the limit, and always for one."""
        while self._next_step < self._stop_step:
            size_bytes = self._size_of(self._next_step)
            if self._ahead and self._ahead_bytes + size_bytes > self._limit_bytes:
                return
            future = self._thread.submit(
                fill_batch, self._order, self._reader, self._next_step, self._world, self._skips
            )
            self._ahead.append(Ahead(future, size_bytes))
            self._ahead_bytes += size_bytes
            self._next_step += 1

    def _size_of(self, step: int) -> int:
        rows = len(rank_slice(self._order.batch_size(step), self._world.data_rank, self._world.data_size))
        return max(1, rows) * (self._order.seq_len(step) or 0) * 12  # 8 bytes a token and 4 a weight
