"""The vault: one process a node, forked by the nursery, that does behind the ranks' backs what is asked of their slots
(checkpoint/behind.py), mirrors them to the next node (mirror.py), and serves whoever goes on from a snapshot.

The memory is not its own but the node actor's (home.py), so that a vault that dies loses no snapshot. It ends with its
node actor. An error in it ends it: it is started again, and the ranks ask once more (vaulted.py)."""

import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection
from typing import Any

from orchestrator.checkpoint.behind import Behind
from orchestrator.checkpoint.shelf import open_shelf
from orchestrator.checkpoint.slot import Slot, SlotState
from orchestrator.checkpoint.vault import Answer
from orchestrator.config.load import load_config
from orchestrator.control.jobs import VaultAddress, VaultSetup
from orchestrator.control.logs import keep_output
from orchestrator.control.mirror import MirrorSender, MirrorSlots
from orchestrator.control.wire import Wire
from orchestrator.tracking.rundir import RunDir

log = logging.getLogger(__name__)
BROKEN = 74  # exit status of a vault that ended itself


def live_as_vault(connection: Connection, setup: VaultSetup) -> None:
    """Listen, say at which port as which process, and stay until the node actor is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # people interrupt the command, which asks the controller
    keep_output(RunDir(setup.run.path).logs, f"vault-{setup.host}")
    threading.excepthook = _end_broken
    connection.send((Vault(setup).listen(), os.getpid()))
    with suppress(EOFError, OSError):
        connection.recv()


def _end_broken(failure: threading.ExceptHookArgs) -> None:
    log.error("the vault cannot go on", exc_info=failure.exc_value)
    os._exit(BROKEN)


class Vault:
    def __init__(self, setup: VaultSetup) -> None:
        self._setup = setup
        self._config = load_config(RunDir(setup.run.path).config).config
        self._own = [[Slot.open(path) for path in paths] for paths in setup.own]
        mirrors = [[Slot.open(path) for path in paths] for paths in setup.mirrors]
        self._mirrors = [MirrorSlots(slots) for slots in mirrors]
        self._is_own = {slot.path: slots in self._own for slots in self._own + mirrors for slot in slots}
        self._slots = {slot.path: slot for slots in self._own + mirrors for slot in slots}
        self._sealing = threading.Lock()
        self._generation = 0  # lower ones have nothing to say any more

    def listen(self) -> int:
        """Returns the port for other nodes."""
        near = socket.socket(socket.AF_UNIX)
        near.bind(f"\0{self._setup.socket}")
        near.listen()
        far = socket.create_server((self._setup.host, self._setup.port))
        for listener in (near, far):
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        port: int = far.getsockname()[1]
        return port

    def _accept(self, listener: socket.socket) -> None:
        while True:
            taken, _ = listener.accept()
            threading.Thread(target=self._serve, args=(taken,), daemon=True).start()

    def _serve(self, taken: socket.socket) -> None:
        """One wire, until the other side is gone."""
        with suppress(OSError, EOFError, AuthenticationError):
            wire = Wire.answer(taken, self._setup.token)
            try:
                while True:
                    self._do(wire, wire.hear())
            finally:
                wire.close()

    def _do(self, wire: Wire, ask: dict[str, Any]) -> None:
        match ask["ask"]:
            case "rank":
                self._refuse_older(ask["generation"])
                self._serve_rank(wire, ask)
            case "mirror":
                self._refuse_older(ask["place"][0])
                self._mirrors[ask["local_rank"]].take_in(wire, ask)
            case "inventory":
                wire.say(held=self._list_held())
            case "part":
                self._send_part(wire, self._slots[ask["path"]])
            case "read":
                wire.pour(self._slots[ask["path"]], ask["begin"], ask["count"])

    def _refuse_older(self, generation: int) -> None:
        if generation < self._generation:
            raise ConnectionRefusedError(f"generation {generation} is over, this is {self._generation}")
        self._generation = generation

    # ---- for a rank of this node ----

    def _serve_rank(self, wire: Wire, ask: dict[str, Any]) -> None:
        """All that a rank asks in one generation."""
        mirror = MirrorSender(VaultAddress(*ask["buddy"]), ask["local_rank"]) if ask["buddy"] else None
        behind = Behind(
            self._own[ask["local_rank"]],
            open_shelf(self._config, RunDir(self._setup.run.path).checkpoints),
            keep=self._config.checkpoint.keep,
            best_by=self._config.evaluate.best_by,
            mirror=mirror.send if mirror else None,
            answer=_answer_over(wire),
        )
        try:
            while True:
                asked = wire.hear()
                match asked["do"]:
                    case "keep":
                        if mirror:
                            mirror.committed = asked["committed"]
                        behind.keep(asked["slot"], write=asked["write"])
                    case "commit":
                        behind.commit(asked["slot"])
                    case "discard":
                        behind.discard(asked["slot"])
        finally:
            if mirror:
                mirror.end()
            behind.close()

    # ---- for whoever goes on from a snapshot ----

    def _list_held(self) -> list[tuple[Any, ...]]:
        whole = ((path, slot) for path, slot in self._slots.items() if slot.is_whole)
        return [(slot.place, path, self._is_own[path]) for path, slot in whole]

    def _send_part(self, wire: Wire, slot: Slot) -> None:
        """What is known of it. A rank may have died before its slot was sealed."""
        with self._sealing:
            if slot.state is SlotState.WHOLE:
                slot.seal()
        wire.send_text(slot.text())
        wire.send_text(json.dumps(slot.checks()).encode())


def _answer_over(wire: Wire) -> Callable[[Answer], None]:
    def say(answer: Answer) -> None:
        with suppress(OSError):  # the rank is gone; what it asked for is done all the same
            wire.say(answer=type(answer).__name__, **{name: getattr(answer, name) for name in answer.__slots__})

    return say
