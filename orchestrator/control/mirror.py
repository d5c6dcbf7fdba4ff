"""Copies of a rank's parts on the buddy node: sent from the one vault, taken in by the other.

The buddy has two slots a rank, and never overwrites the one that holds a part of the snapshot that all ranks had
together last: until the next is whole everywhere, a run may have to go on from it."""

import logging
import threading
import time
from collections.abc import Sequence
from multiprocessing import AuthenticationError
from typing import Any

from orchestrator.checkpoint.part import PartPlace
from orchestrator.checkpoint.slot import Slot
from orchestrator.control.jobs import VaultAddress
from orchestrator.control.wire import SILENCE_S, Wire

log = logging.getLogger(__name__)
PAUSE_S = 0.2  # before the next try

Snapshot = tuple[int, int]  # generation, step


class MirrorSender:
    """Of one rank in one generation. Sends until the buddy has it, or until nobody waits for it any more."""

    def __init__(self, buddy: VaultAddress, local_rank: int) -> None:
        self._buddy, self._local_rank = buddy, local_rank
        self._wire: Wire | None = None
        self._sending, self._is_over = threading.Lock(), threading.Event()
        self.committed: Snapshot | None = None  # the last one that all ranks had together

    def send(self, slot: Slot) -> float:
        """Seconds of CPU that it took over there."""
        with self._sending:
            while not self._is_over.is_set():
                try:
                    problem, cpu_s = self._try_to_send(slot)
                except (OSError, EOFError, AuthenticationError) as error:
                    problem, cpu_s = f"{type(error).__name__}: {error}", 0.0
                    self._forget_wire()
                if not problem:
                    return cpu_s
                log.warning("local rank %d is not mirrored, trying again: %s", self._local_rank, problem)
                self._is_over.wait(PAUSE_S)
        return 0.0

    def end(self) -> None:
        """What could not be sent until now is given up."""
        self._is_over.set()
        with self._sending:
            self._forget_wire()

    def _try_to_send(self, slot: Slot) -> tuple[str, float]:
        if self._wire is None:
            self._wire = Wire.to_vault(self._buddy)
        wire, size_bytes = self._wire, len(slot.body())
        wire.say(
            ask="mirror",
            local_rank=self._local_rank,
            place=slot.place,
            committed=self.committed,
            size_bytes=size_bytes,
            checks=slot.checks(),
        )
        wire.send_text(slot.text())
        wire.pour(slot, 0, size_bytes)
        answer = wire.hear(SILENCE_S)
        return answer["problem"], answer["cpu_s"]

    def _forget_wire(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None


class MirrorSlots:
    """The receiver's, of one rank of the other node."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots = slots
        self._lock = threading.Lock()
        self._places = [slot.place if slot.is_whole else None for slot in slots]

    def take_in(self, wire: Wire, ask: dict[str, Any]) -> None:
        """Answered with the problem, which is empty when the copy is what was sent."""
        began = time.thread_time()
        with self._lock:
            problem = self._fill(wire, ask)
        wire.say(problem=problem, cpu_s=time.thread_time() - began)

    def _fill(self, wire: Wire, ask: dict[str, Any]) -> str:
        place = PartPlace(*ask["place"])
        number = self._choose(place, tuple(ask["committed"] or ()))
        slot, self._places[number] = self._slots[number], None
        text = wire.take_text()
        wire.fill(slot.begin(ask["size_bytes"]))
        slot.finish_copy(place, text)
        if slot.seal() != tuple(ask["checks"]):
            slot.begin(0)
            return "the bytes that have arrived are not those that were sent"
        self._places[number] = place
        return ""

    def _choose(self, place: PartPlace, committed: tuple[int, ...]) -> int:
        """One that holds the same part already, or nothing; otherwise the oldest that is not of the committed one."""

        def worth(number: int) -> tuple[bool, tuple[int, ...]]:
            held = self._places[number]
            return (False, ()) if held is None or held == place else (held[:2] == committed, held)

        return min(range(len(self._slots)), key=worth)
