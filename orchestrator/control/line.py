"""A rank's end of the connection to its node actor: news go out, assignments and aborts come in.

What is told is sent at once, so that it outlives the rank. The node actor answers with how many news are on disk."""

import queue
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from orchestrator.control.abort import WayOut
from orchestrator.control.jobs import Abort, Assignment, NewsParcel, ShowStacks
from orchestrator.core.errors import TrainingFailed
from orchestrator.core.news import News

FLUSH_TIMEOUT_S = 120.0


class Line:
    """A core.news.Sink over all jobs of a rank."""

    def __init__(
        self, connection: Connection, way_out: WayOut, gone: Callable[[], None], show_stacks: Callable[[], None]
    ) -> None:
        """`gone` is called when nobody is at the other end any more."""
        self._connection, self.way_out, self._gone, self._show_stacks = connection, way_out, gone, show_stacks
        self._assignments: queue.Queue[Assignment] = queue.Queue()
        self._sending, self._answered = threading.Lock(), threading.Condition()
        self.told = self.settled = 0
        threading.Thread(target=self._listen, name="line", daemon=True).start()

    # ---- a Sink ----

    def tell(self, news: News) -> None:
        with self._sending:
            self.told += 1
            self._connection.send(NewsParcel((news,)))

    def flush(self) -> None:
        """Return when everything told so far is on disk. Who is to leave the world does not wait for it."""
        deadline, told = time.monotonic() + FLUSH_TIMEOUT_S, self.told
        with self._answered:
            while self.settled < told:
                self.way_out.raise_if_taken()
                if not self._answered.wait(deadline - time.monotonic()):
                    raise TrainingFailed(f"no news has been taken for {FLUSH_TIMEOUT_S:g} s", where="scribe")

    # ---- a rank's life ----

    def say(self, message: Any) -> None:
        """What is no news, behind all that was told before."""
        with self._sending:
            self._connection.send(message)

    def next_assignment(self) -> Assignment:
        """From now on there may be a world to be left."""
        assignment = self._assignments.get()
        self.way_out.enter(assignment.job)
        return assignment

    def _listen(self) -> None:
        try:
            while True:
                self._hear(self._connection.recv())
        except (EOFError, OSError):
            self._gone()

    def _hear(self, message: int | Assignment | Abort | ShowStacks) -> None:
        match message:
            case int():
                with self._answered:
                    self.settled = message
                    self._answered.notify_all()
            case Assignment(job):
                self._assignments.put(message)
                self._leave(job.generation - 1)
            case Abort(generation):
                self._leave(generation)
            case ShowStacks():
                self._show_stacks()

    def _leave(self, generation: int) -> None:
        self.way_out.take(generation)
        with self._answered:
            self._answered.notify_all()
