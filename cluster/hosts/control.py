"""How commands reach the keeper of running hosts: one question and one answer over an abstract Unix socket.

Such a socket has a name but no file, so nothing is left when the keeper is killed. Only the same user may ask."""

import contextlib
import json
import os
import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.core.errors import BadInput, LonghaulError

_PREFIX = "longhaul-hosts/"
_LONGEST = 1 << 16  # bytes of a question or an answer
_PATIENCE_S = 5.0
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid of the other side, as SO_PEERCRED gives them


class Answer(NamedTuple):
    """What an operation returns; `pidfd` gives the asker a process of the keeper's to enter."""

    value: Any = None
    pidfd: int | None = None


Operation = Callable[..., Answer]


def listen(cluster: str) -> socket.socket:
    """Take this name for a cluster; OSError when it is taken."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.bind(_address(cluster))
        listener.listen(64)
    except OSError:
        listener.close()
        raise
    return listener


def list_clusters() -> list[str]:
    """The clusters that run on this machine, of all users."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    names = {line.rpartition(f" @{_PREFIX}")[2] for line in lines if f" @{_PREFIX}" in line}
    return sorted(names)


def ask(cluster: str, operation: str, **arguments: Any) -> Answer:
    """Have the keeper do something; LonghaulError with its words when it could not."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
            line.connect(_address(cluster))
            line.send(json.dumps({"operation": operation, "arguments": arguments}).encode())
            message, pidfds, _, _ = socket.recv_fds(line, _LONGEST, 1)
    except OSError as problem:
        raise _gone(cluster) from problem
    if not message:
        raise BadInput("it hung up: it has ended, or is another user's", where=f"cluster {cluster}")
    answer = json.loads(message)
    if "problem" in answer:
        raise LonghaulError(answer["problem"], where=f"cluster {cluster}")
    return Answer(answer["value"], pidfds[0] if pidfds else None)


def serve_one(listener: socket.socket, operations: Mapping[str, Operation]) -> None:
    """Answer one question. Whoever hangs up or dawdles, and other users, get nothing."""
    line, _ = listener.accept()
    with line, contextlib.suppress(OSError):
        line.settimeout(_PATIENCE_S)
        _, uid, _ = _CREDENTIALS.unpack(line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        message = line.recv(_LONGEST)
        if not message or uid != os.geteuid():
            return
        question = json.loads(message)
        answer, pidfds = _answer(operations[question["operation"]], question["arguments"])
        try:
            socket.send_fds(line, [json.dumps(answer).encode()], pidfds)
        finally:
            for pidfd in pidfds:
                os.close(pidfd)


def _answer(operation: Operation, arguments: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
    try:
        value, pidfd = operation(**arguments)
    except LonghaulError as problem:
        return {"problem": problem.message}, []
    return {"value": value}, [] if pidfd is None else [pidfd]


def _address(cluster: str) -> str:
    return f"\0{_PREFIX}{cluster}"


def _gone(cluster: str) -> BadInput:
    return BadInput(
        "no such cluster of hosts is running", where=f"cluster {cluster}", remedy="python -m cluster.hosts up 4"
    )
