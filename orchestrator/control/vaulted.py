"""The vault as a rank sees it (checkpoint/vault.py): a wire to the vault process of its node (vault.py).

Slots are filled without it. A vault that dies is started again by the node actor; until then the rank trains on, and
what the dead one had not kept is asked of the new one. A checkpoint that it was writing is lost, and told as lost."""

import logging
import os
import queue
import threading
import time
from multiprocessing import AuthenticationError
from typing import Any

from orchestrator.checkpoint.slot import Slot
from orchestrator.checkpoint.vault import Answer, Committed, Kept, Written, take_all
from orchestrator.control.jobs import VaultAddress, VaultDoor
from orchestrator.control.mirror import Snapshot
from orchestrator.control.wire import Wire

log = logging.getLogger(__name__)
PATIENCE_S = 60.0
PAUSE_S = 0.05
CLOSE_WAIT_S = 0.25  # for the listener; while a frozen vault keeps it waiting for its greeting it ends behind
VAULT_LOST = 73  # exit status of a rank whose vault does not come back
_KINDS: dict[str, type[Answer]] = {kind.__name__: kind for kind in (Kept, Written, Committed)}
_LOST = "checkpoint not written: the process that was writing it has died"


class RankVault:
    """A Vault. `committed` is the snapshot that the generation goes on from, if it does."""

    def __init__(
        self, door: VaultDoor, *, generation: int, buddy: VaultAddress | None, committed: Snapshot | None
    ) -> None:
        self._door, self._generation, self._buddy, self._committed = door, generation, buddy, committed
        self.slots = _put_last([Slot.open(path) for path in door.slots], committed)
        self._numbers = [door.slots.index(slot.path) for slot in self.slots]  # as the vault counts them
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._unkept: int | None = None  # slots whose answer is due
        self._unwritten: int | None = None
        self._uncommitted: int | None = None
        self._is_closed = False
        self._wire: Wire | None = None
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    # ---- a Vault ----

    def keep(self, slot: int, *, write: bool) -> None:
        with self._lock:
            self._unkept, self._unwritten = slot, slot if write else self._unwritten
            self._say("keep", slot, write=write, committed=self._committed)

    def commit(self, slot: int) -> None:
        with self._lock:
            self._uncommitted = slot
            self._say("commit", slot)

    def discard(self, slot: int) -> None:
        with self._lock:
            self._say("discard", slot)

    def answers(self, *, wait: bool = False) -> list[Answer]:
        return take_all(self._answers, wait=wait)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            self._unkept = self._unwritten = self._uncommitted = None
            if self._wire is not None:
                self._wire.hang_up()
        self._listener.join(CLOSE_WAIT_S)
        for slot in self.slots:
            slot.close()

    # ---- inside ----

    def _say(self, do: str, slot: int, **more: Any) -> None:
        if self._wire is not None:
            try:
                self._wire.say(do=do, slot=self._numbers[slot], **more)
            except OSError:
                log.warning("the vault is gone")  # the listener finds out, too, and asks again

    def _listen(self) -> None:
        while (wire := self._connect()) is not None:
            try:
                self._begin(wire)
                while True:
                    self._take_in(wire.hear())
            except (OSError, EOFError):
                self._note_loss(wire)

    def _connect(self) -> Wire | None:
        """None when nothing more will be asked."""
        deadline = time.monotonic() + PATIENCE_S
        while not self._is_closed:
            try:
                return Wire.to_own_vault(self._door.socket, self._door.token)
            except (OSError, EOFError, AuthenticationError):  # not there yet, or about to die
                time.sleep(PAUSE_S)
            if time.monotonic() > deadline:
                log.error("no vault for %g s", PATIENCE_S)
                os._exit(VAULT_LOST)
        return None

    def _begin(self, wire: Wire) -> None:
        """Say who this is, and ask again for what is still wanted."""
        buddy = self._buddy and (self._buddy.host, self._buddy.port, self._buddy.token)
        with self._lock:
            wire.say(ask="rank", local_rank=self._door.local_rank, generation=self._generation, buddy=buddy)
            self._wire = wire
            if self._unkept is not None:
                write = self._unwritten == self._unkept
                self._say("keep", self._unkept, write=write, committed=self._committed)
            if self._uncommitted is not None:
                self._say("commit", self._uncommitted)
            if self._is_closed:
                wire.hang_up()

    def _take_in(self, message: dict[str, Any]) -> None:
        answer = _KINDS[message.pop("answer")](**message)
        with self._lock:
            match answer:
                case Kept():  # the next is asked to be kept only when all ranks have this one
                    self._unkept, self._committed = None, (self._generation, answer.step)
                case Written():
                    self._unwritten = None
                case Committed():
                    self._uncommitted = None
        self._answers.put(answer)

    def _note_loss(self, wire: Wire) -> None:
        with self._lock:
            self._wire = None
            wire.close()
            if self._unwritten is not None:
                self._answers.put(Written(step=self.slots[self._unwritten].place.step, problem=_LOST))
            if self._uncommitted is not None:
                self._answers.put(Committed(step=self.slots[self._uncommitted].place.step, problem=_LOST))
            self._unwritten = self._uncommitted = None


def _put_last(slots: list[Slot], committed: Snapshot | None) -> list[Slot]:
    """The slot with the snapshot that this generation goes on from is filled only when a newer one is whole: the last
    of three is taken only where the other two hold newer ones."""
    return sorted(slots, key=lambda slot: slot.is_whole and slot.place[:2] == committed)
