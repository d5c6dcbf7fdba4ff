"""The nursery: one process a node that has imported the training stack and forks ranks from itself, so that a node pays
for the imports once and a new rank is there in milliseconds. It forks the rendezvous store and the vault, too.

Started by the node actor; on a local Ray by its keeper, so that imports and Ray's start go side by side. It never
touches CUDA, which does not survive a fork, and it runs no thread of ours. Ranks speak to the node actor over the
connection that asked for them; end of file there means that the process is dead."""

import contextlib
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any, Self

from orchestrator.control.jobs import RankSetup, StoreSetup, VaultSetup
from orchestrator.control.logs import keep_output

_VARIABLE = "LONGHAUL_NURSERY"  # where a nursery started ahead of time listens; inherited by everything below it
_BACKLOG = 256
Life = Callable[[Connection, Any], None]  # of a forked child: its connection, and what it is asked to be


@dataclass(frozen=True, slots=True)
class NurseryAddress:
    """An abstract Unix socket, which leaves nothing behind, and the key that opens it."""

    name: str
    key: str
    device: str

    @classmethod
    def invent(cls, device: str) -> Self:
        return cls(f"longhaul-nursery-{secrets.token_hex(8)}", secrets.token_hex(32), device)

    @classmethod
    def inherited(cls) -> Self | None:
        text = os.environ.get(_VARIABLE)
        return cls(*text.split(":")) if text else None

    def as_environment(self) -> dict[str, str]:
        return {_VARIABLE: f"{self.name}:{self.key}:{self.device}"}

    def is_listening(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(f"\0{self.name}") == 0

    def listen(self) -> Listener:
        return Listener(f"\0{self.name}", backlog=_BACKLOG, authkey=self.key.encode())

    def connect(self, timeout_s: float) -> Connection:
        """Waits for the listener to be there; after that the nursery answers when its imports are done."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return Client(f"\0{self.name}", authkey=self.key.encode())
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


class LastingNursery:
    """The node's nursery for as long as it needs one: that which was started ahead of time, or one of our own. When it
    dies there is another one; what it has forked does not mind."""

    def __init__(self, device: str, logs: Path, env: Mapping[str, str]) -> None:
        self._device, self._logs, self._env = device, logs, env
        self._finding = threading.Lock()
        self._address: NurseryAddress | None = None
        self._own: subprocess.Popen[bytes] | None = None

    def connect(self, timeout_s: float) -> Connection:
        with self._finding:
            address = self._find()
        return address.connect(timeout_s)

    def end(self) -> None:
        """Of our own; the other one is whose it is."""
        with self._finding:
            if self._own is not None:
                self._own.kill()
                self._own.wait()

    def _find(self) -> NurseryAddress:
        if self._own is not None and self._own.poll() is None and self._address is not None:
            return self._address
        found = NurseryAddress.inherited()
        if self._own is not None or found is None or found.device != self._device or not found.is_listening():
            found = NurseryAddress.invent(self._device)
            self._own = start_nursery(found, self._logs, self._env)
        self._address = found
        return found


def start_nursery(address: NurseryAddress, logs: Path | None, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """It ends with the process that calls this. `logs`: where its output goes; otherwise to the caller's."""
    command = [sys.executable, "-m", "orchestrator.control.nursery", str(os.getpid()), *([str(logs)] if logs else [])]
    variables = {**os.environ, **address.as_environment(), **env}
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, env=variables)


def tend(parent: int, logs: Path | None) -> None:
    """Import, then fork for whoever asks, until the parent is gone."""
    address = NurseryAddress.inherited()
    if address is None:
        raise SystemExit(f"{_VARIABLE} is not set; a nursery is started by its node actor")
    watched = os.pidfd_open(parent)
    listener = address.listen()
    if logs is not None:
        keep_output(logs, f"nursery-{socket.gethostname()}-{os.getpid()}", rotation=None)  # no thread before a fork
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # asking whether there is CUDA must not start it
    from orchestrator.control import rank, snapshots, store, vault  # noqa: F401 (what is forked will need them)
    from orchestrator.train import engine, loop  # noqa: F401

    engine.warm(address.device, threads=1)  # one thread: pools of worker threads do not survive a fork
    fork_for_all(listener, watched)


def fork_for_all(listener: Listener, watched: int, live: Life | None = None) -> None:
    """Until the process behind that handle is gone. `live`: instead of what is forked in a run."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the dead
    handle = listener._listener._socket.fileno()  # type: ignore[attr-defined]
    while watched not in select.select([handle, watched], [], [])[0]:
        with contextlib.suppress(OSError, EOFError, AuthenticationError):  # whoever asked has died meanwhile
            connection = listener.accept()
            setup = connection.recv()
            if os.fork() == 0:
                listener.close()
                os.close(watched)
                _live(connection, setup, live or _live_as)
            connection.close()


def _live(connection: Connection, setup: Any, live: Life) -> None:
    """In the forked child, which never returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    code = 1
    try:
        live(connection, setup)
        code = 0
    except Exception:  # noqa: BLE001 (its last words; nobody else prints them)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _live_as(connection: Connection, setup: RankSetup | StoreSetup | VaultSetup) -> None:
    from orchestrator.control.rank import live_as_rank
    from orchestrator.control.store import live_as_store
    from orchestrator.control.vault import live_as_vault

    match setup:
        case RankSetup():
            live_as_rank(connection, setup)
        case StoreSetup():
            live_as_store(connection, setup)
        case VaultSetup():
            live_as_vault(connection, setup)


if __name__ == "__main__":
    tend(int(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
