"""Does what is asked of one rank's slots behind the rank's back: checksums, mirror, disk.

Two threads, so that a slow disk does not keep snapshots from being mirrored. Comes after slot.py; writer.py does the
writing. Also a Vault of its own, for a rank without a vault process."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from orchestrator.checkpoint.keep import prune
from orchestrator.checkpoint.slot import Slot
from orchestrator.checkpoint.vault import Answer, Committed, Kept, Written
from orchestrator.checkpoint.writer import commit, remove_uncommitted, write_part
from orchestrator.config.running import KeepSection
from orchestrator.core.errors import CheckpointDamaged

SLOTS = 3  # the last committed snapshot, the one on its way, and one that is being written to disk

Job = Callable[[], Answer | None]


class Behind:
    def __init__(
        self,
        slots: Sequence[Slot],
        folder: Path,
        *,
        keep: KeepSection,
        best_by: str,
        mirror: Callable[[Slot], None] | None = None,
        answer: Callable[[Answer], None] | None = None,
    ) -> None:
        self.slots = slots
        self._folder, self._keep, self._best_by, self._mirror = folder, keep, best_by, mirror
        self._answers: queue.Queue[Answer] = queue.Queue()
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
        found = [self._answers.get()] if wait else []
        while not self._answers.empty():
            found.append(self._answers.get())
        return found

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
        if self._mirror is not None:
            self._mirror(slot)
        if write:
            self._disk.put(lambda: self._write(slot))
        return Kept(step=slot.part().step, cpu_s=time.thread_time() - began)

    def _write(self, slot: Slot) -> Answer:
        step = slot.part().step
        try:
            write_part(self._folder, slot)
        except OSError as error:
            return Written(step=step, problem=f"checkpoint not written: {error}")
        return Written(step=step)

    def _commit(self, slot: Slot) -> Answer:
        part = slot.part()
        try:
            path, size_bytes = commit(self._folder, part)
        except (OSError, CheckpointDamaged) as error:
            remove_uncommitted(self._folder, part)
            return Committed(step=part.step, problem=f"checkpoint not written: {error}")
        problem = ""
        try:
            prune(self._folder, self._keep, self._best_by)
        except OSError as error:
            problem = f"older checkpoints could not be removed: {error}"
        return Committed(step=part.step, path=str(path), size_bytes=size_bytes, problem=problem)

    def _discard(self, slot: Slot) -> None:
        remove_uncommitted(self._folder, slot.part())


def _start_worker(do: Callable[[Job], None]) -> "queue.Queue[Job | None]":
    jobs: queue.Queue[Job | None] = queue.Queue()

    def work() -> None:
        while (job := jobs.get()) is not None:
            do(job)

    threading.Thread(target=work, daemon=True).start()
    return jobs
