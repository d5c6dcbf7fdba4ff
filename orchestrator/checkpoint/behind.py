"""Does what is asked of one rank's slots behind the rank's back: checksums, mirror, disk.

Two threads, so that a slow disk does not keep snapshots from being mirrored. Comes after slot.py; writer.py does the
writing. Also a Vault of its own, for a rank without a vault process."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from orchestrator.checkpoint.keep import prune
from orchestrator.checkpoint.shelf import Shelf, to_shelf
from orchestrator.checkpoint.slot import Slot
from orchestrator.checkpoint.vault import Answer, Committed, Kept, Written, take_all
from orchestrator.checkpoint.writer import commit, remove_uncommitted, write_part
from orchestrator.config.running import KeepSection
from orchestrator.core.errors import LonghaulError
from orchestrator.core.words import OWN_SLOTS

log = logging.getLogger(__name__)
SLOTS = OWN_SLOTS

Job = Callable[[], Answer | None]


class Behind:
    def __init__(
        self,
        slots: Sequence[Slot],
        kept: Shelf | Path,
        *,
        keep: KeepSection,
        best_by: str,
        mirror: Callable[[Slot], float] | None = None,
        answer: Callable[[Answer], None] | None = None,
    ) -> None:
        self.slots = slots
        self._shelf, self._keep, self._best_by, self._mirror = to_shelf(kept), keep, best_by, mirror
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._answer = answer or self._answers.put
        self._memory, self._disk = _start_worker(self._do), _start_worker(self._do)

    # ---- a Vault ----

    def keep(self, slot: int, *, write: bool) -> None:
        self._memory.put(lambda: self._take_in(self.slots[slot], write=write))

    def commit(self, slot: int) -> None:
        self._disk.put(lambda: self._commit(self.slots[slot]))

    def discard(self, slot: int) -> None:
        self._disk.put(lambda: self._discard(self.slots[slot]))

    def answers(self, *, wait: bool = False) -> list[Answer]:
        return take_all(self._answers, wait=wait)

    def close(self) -> None:
        """When what has been asked is done, the threads end."""
        self._memory.put(None)
        self._disk.put(None)

    # ---- what is done ----

    def _do(self, job: Job) -> None:
        if (answer := job()) is not None:
            self._answer(answer)

    def _take_in(self, slot: Slot, *, write: bool) -> Answer:
        began = time.thread_time()
        slot.seal()
        if write:
            self._disk.put(lambda: self._write(slot))
        elsewhere_s = self._mirror(slot) if self._mirror is not None else 0.0
        return Kept(step=slot.place.step, cpu_s=time.thread_time() - began + elsewhere_s)

    def _write(self, slot: Slot) -> Answer:
        step = slot.place.step
        try:
            write_part(self._shelf, slot)
        except (OSError, LonghaulError) as error:
            return Written(step=step, problem=f"checkpoint not written: {error}")
        return Written(step=step)

    def _commit(self, slot: Slot) -> Answer:
        part = slot.part()
        try:
            path, size_bytes = commit(self._shelf, part)
        except (OSError, LonghaulError) as error:
            self._discard(slot)
            return Committed(step=part.step, problem=f"checkpoint not written: {error}")
        problem = ""
        try:
            prune(self._shelf, self._keep, self._best_by)
        except (OSError, LonghaulError) as error:
            problem = f"older checkpoints could not be removed: {error}"
        return Committed(step=part.step, path=str(path), size_bytes=size_bytes, problem=problem)

    def _discard(self, slot: Slot) -> None:
        try:
            remove_uncommitted(self._shelf, slot.part())
        except (OSError, LonghaulError) as error:
            log.warning("what there is of a checkpoint that was given up stays until the next one: %s", error)


def _start_worker(do: Callable[[Job], None]) -> "queue.Queue[Job | None]":
    jobs: queue.Queue[Job | None] = queue.Queue()

    def work() -> None:
        while (job := jobs.get()) is not None:
            do(job)

    threading.Thread(target=work, daemon=True).start()
    return jobs
