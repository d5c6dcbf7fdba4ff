"""Who decodes: this process, or processes of its own for Python code that holds the interpreter's lock.

Between samples.py and sampled.py. A worker process speaks with us over one pipe, so nothing is left behind whoever is
killed: its end of file ends the worker."""

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, NamedTuple, Protocol

from orchestrator.core.errors import TrainingFailed
from orchestrator.core.keyed import Keys
from orchestrator.data.decoding.decode import Bytes
from orchestrator.data.decoding.fields import Decoding

DEATH_TIMEOUT_S = 5.0
CLOSE_WAIT_S = 0.25  # then they are killed: they leave nothing behind


Members = Mapping[str, tuple[Sequence[str], Sequence[Bytes]]]  # of some samples: suffixes and bytes by field


class Decoded(NamedTuple):
    """Values by field, None where a sample is a hole; why it is one, by its number; and the time it took."""

    columns: dict[str, list[Any]]
    holes: dict[int, str]
    seconds: float


class Decoders(Protocol):
    """Any number of threads may decode at once. `keys` are those that the samples draw under."""

    def decode(self, members: Members, keys: Keys) -> Decoded: ...
    def close(self) -> None: ...


class OwnProcess:
    """Decodes where it is called."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding

    def decode(self, members: Members, keys: Keys) -> Decoded:
        began = time.perf_counter()
        columns, holes = self._decoding.decode_columns(members, keys)
        return Decoded(columns, holes, time.perf_counter() - began)

    def close(self) -> None:
        """There is nothing to end."""


class WorkerProcesses:
    """Each call is given to a process that is idle; there should be as many threads as processes."""

    def __init__(self, decoding: Decoding, number: int) -> None:
        self._workers = [Worker(decoding) for _ in range(number)]
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)

    def decode(self, members: Members, keys: Keys) -> Decoded:
        worker = self._idle.get()
        try:
            return worker.decode(members, keys)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        for worker in self._workers:
            worker.connection.close()
        deadline = time.monotonic() + CLOSE_WAIT_S
        for worker in self._workers:
            worker.end(deadline)


class Worker:
    """One process and our end of its pipe. It begins with nothing of ours: forking would take our threads' locks."""

    def __init__(self, decoding: Decoding) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs, decoding), name="decoder", daemon=True)
        self._process.start()
        theirs.close()
        # Whoever reaps the process does so alone: to another thread it would look alive until the status is noted
        self._reaping = Lock()

    def decode(self, members: Members, keys: Keys) -> Decoded:
        copied = {name: (suffixes, list(map(bytes, data))) for name, (suffixes, data) in members.items()}
        try:
            self.connection.send((copied, keys))
            answer: Decoded | Failure = self.connection.recv()
        except (EOFError, ConnectionError) as error:
            has_died = wait([self._process.sentinel], DEATH_TIMEOUT_S)
            with self._reaping:
                self._process.join(None if has_died else 0.0)  # it may take a moment yet until its status is there
                status = self._process.exitcode
            raise TrainingFailed(
                f"a decoding process ended with status {status}",
                where="data.workers.processes",
                remedy="if memory ran out, lower data.workers.processes; else look into the log of the rank",
            ) from error
        if isinstance(answer, Failure):
            answer.error.add_note(f"In a decoding process:\n{answer.traceback}")
            raise answer.error
        return answer

    def end(self, deadline: float) -> None:
        wait([self._process.sentinel], max(0.0, deadline - time.monotonic()))
        with self._reaping:
            self._process.kill()
            self._process.join()
            self._process.close()


class Failure(NamedTuple):
    """What was raised in a worker."""

    error: Exception
    traceback: str


def work(connection: Connection, decoding: Decoding) -> None:
    """A worker's life: decode what comes, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # people interrupt the command, which ends the rank
    Thread(target=_end_with_parent, daemon=True).start()
    own = OwnProcess(decoding)
    with suppress(EOFError, ConnectionError):
        while True:
            members, keys = connection.recv()
            try:
                connection.send(own.decode(members, keys))
            except ConnectionError:
                raise
            except Exception as error:  # noqa: BLE001 - the boundary: whatever went wrong is raised on the other side
                connection.send(Failure(error, traceback.format_exc()))


def _end_with_parent() -> None:
    """Also in the middle of a sample that takes for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
