"""The node actor's side of vault and store: both are processes that the nursery forks, and are forked again when they
die. The memory of the vault is the node actor's (vault.py); a store that dies is another one then (store.py)."""

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from multiprocessing import AuthenticationError

from orchestrator.checkpoint.slot import Slot
from orchestrator.control.jobs import RunHandle, StoreSetup, VaultAddress, VaultDoor, VaultSetup
from orchestrator.control.member import Nursery
from orchestrator.core.words import MIRROR_SLOTS, OWN_SLOTS

log = logging.getLogger(__name__)
START_TIMEOUT_S = 60.0
PAUSE_S = 0.1


class VaultHome:
    def __init__(
        self, run: RunHandle, host: str, num_ranks: int, nursery: Nursery, changed: Callable[[], None] = lambda: None
    ) -> None:
        self._run, self._host = run, host
        self._own = [_create_slots(f"own-{rank}", OWN_SLOTS) for rank in range(num_ranks)]
        self._mirrors = [_create_slots(f"mirror-{rank}", MIRROR_SLOTS) for rank in range(num_ranks)]
        self._socket, self._token = f"longhaul-vault-{secrets.token_hex(8)}", secrets.token_hex(32)
        self._process = _Kept("vault", nursery, self._setup, changed)

    @property
    def address(self) -> VaultAddress | None:
        """None until it listens. It stays the same when the process does not."""
        port = self._process.last_port
        return VaultAddress(self._host, port, self._token) if port else None

    @property
    def pid(self) -> int:
        return self._process.pid

    def door(self, local_rank: int) -> VaultDoor:
        paths = tuple(slot.path for slot in self._own[local_rank])
        return VaultDoor(socket=self._socket, token=self._token, local_rank=local_rank, slots=paths)

    def _setup(self, last_port: int) -> VaultSetup:
        return VaultSetup(
            run=self._run,
            host=self._host,
            port=last_port,
            socket=self._socket,
            token=self._token,
            own=_paths(self._own),
            mirrors=_paths(self._mirrors),
        )


class StoreHome:
    """Every node has one; which node's a world meets on is the controller's choice."""

    def __init__(self, host: str, nursery: Nursery, changed: Callable[[], None]) -> None:
        self._host = host
        self._process = _Kept("store", nursery, lambda _: StoreSetup(host), changed)

    @property
    def address(self) -> tuple[str, int] | None:
        """None while there is none."""
        return (self._host, self._process.last_port) if self.pid else None

    @property
    def pid(self) -> int:
        return self._process.pid


class _Kept:
    """A process that the nursery forks, and again whenever it dies. `setup` is given the port of the one before."""

    def __init__(
        self,
        name: str,
        nursery: Nursery,
        setup: Callable[[int], VaultSetup | StoreSetup],
        changed: Callable[[], None],
    ) -> None:
        self._name, self._nursery, self._setup, self._changed = name, nursery, setup, changed
        self.last_port = 0
        self.pid = 0  # while there is none
        threading.Thread(target=self._keep_alive, daemon=True).start()

    def _keep_alive(self) -> None:
        while True:
            try:
                with self._nursery.connect(START_TIMEOUT_S) as connection:
                    connection.send(self._setup(self.last_port))
                    self.last_port, self.pid = connection.recv()
                    self._changed()
                    connection.recv()  # it says no more: this is where its death is seen
            except (OSError, EOFError, AuthenticationError) as error:
                log.warning("the %s has died and is started again: %s", self._name, type(error).__name__)
                self.pid = 0
                self._changed()
                time.sleep(PAUSE_S)


def _create_slots(name: str, count: int) -> list[Slot]:
    return [Slot.create(f"{os.getpid()}-{name}-{number}") for number in range(count)]


def _paths(slots: list[list[Slot]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(slot.path for slot in of_rank) for of_rank in slots)
