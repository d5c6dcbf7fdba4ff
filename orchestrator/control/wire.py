"""A wire to a vault: JSON messages and raw bytes between processes that have proven to each other that they know the
vault's token. Whoever speaks to control/vault.py does so over one."""

import json
import os
import socket
import struct
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any

from orchestrator.checkpoint.slot import Slot
from orchestrator.control.jobs import VaultAddress

SILENCE_S = 30.0  # in the middle of a message, or where an answer is due: the other side is taken for gone
ANSWER_S = 3.0  # the same where others may have what is asked for, and nothing has to be computed for it
_KEEPALIVE = {socket.TCP_KEEPIDLE: 10, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}


class Wire:
    """Raises OSError or EOFError when the other side is gone."""

    def __init__(self, taken: socket.socket, patience_s: float = SILENCE_S) -> None:
        silence = struct.pack("ll", int(patience_s), 0)
        taken.setblocking(True)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, silence)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, silence)
        if taken.family != socket.AF_UNIX:
            taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE.items():
                taken.setsockopt(socket.IPPROTO_TCP, option, value)
        self._connection = Connection(taken.detach())
        self._saying = threading.Lock()

    @classmethod
    def to_vault(cls, address: VaultAddress, patience_s: float = SILENCE_S) -> "Wire":
        """Of any node. Raises AuthenticationError where the token is another's. `patience_s`: with its silence, from
        now on."""
        opened = socket.create_connection((address.host, address.port), patience_s)
        return cls(opened, patience_s)._greet(address.token, answer_challenge, deliver_challenge)

    @classmethod
    def to_own_vault(cls, name: str, token: str) -> "Wire":
        """Of this node."""
        opened = socket.socket(socket.AF_UNIX)
        try:
            opened.connect(f"\0{name}")
        except OSError:
            opened.close()
            raise
        return cls(opened)._greet(token, answer_challenge, deliver_challenge)

    @classmethod
    def answer(cls, taken: socket.socket, token: str) -> "Wire":
        """The vault's side of the two."""
        return cls(taken)._greet(token, deliver_challenge, answer_challenge)

    def _greet(self, token: str, *proofs: Callable[[Connection, bytes], None]) -> "Wire":
        """Both sides prove that they know the token, in an order that fits the other's."""
        try:
            for proof in proofs:
                proof(self._connection, token.encode())
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        with self._saying:
            self._connection.close()

    def hang_up(self) -> None:
        """Whoever waits for a message here or there gets EOFError; to be closed all the same."""
        with socket.fromfd(self._connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as same:
            same.shutdown(socket.SHUT_RDWR)

    def say(self, **message: Any) -> None:
        """From any thread."""
        with self._saying:
            self._connection.send_bytes(json.dumps(message).encode())

    def hear(self, timeout_s: float | None = None) -> dict[str, Any]:
        """The next message; without a limit, however long it takes."""
        if not self._connection.poll(timeout_s):
            raise TimeoutError(f"no answer for {timeout_s:g} s")
        message: dict[str, Any] = json.loads(self._connection.recv_bytes())
        return message

    def send_text(self, text: bytes) -> None:
        self._connection.send_bytes(text)

    def take_text(self) -> bytes:
        return self._connection.recv_bytes()

    def pour(self, slot: Slot, begin: int, count: int) -> None:
        """Bytes of a part, raw."""
        slot.send_body(begin, count, self._connection.fileno())

    def fill(self, into: memoryview) -> None:
        """With raw bytes."""
        while into:
            count = os.readv(self._connection.fileno(), [into])
            if count == 0:
                raise EOFError
            into = into[count:]
