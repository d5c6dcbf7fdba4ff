"""The Linux calls the hosts are made of: starting a command in new namespaces or in those of another process, mounting.

A thread enters the namespaces and ends once the command is born there. So the caller's own threads stay where they are,
and it gets the plain Popen of the command, with no process in between that would have to pass on signals."""

import contextlib
import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

MOUNT, UTS, IPC, PID, NET = 0x00020000, 0x04000000, 0x08000000, 0x20000000, 0x40000000  # linux/sched.h: CLONE_NEW*
ALL = MOUNT | UTS | IPC | PID | NET
_OWN_FOLDER = 0x00000200  # CLONE_FS: who shares root and working directory with other threads may not change mounts

BIND, RECURSIVE, PRIVATE = 0x1000, 0x4000, 0x40000  # linux/mount.h: MS_*

CLONE = Path(__file__).parents[2]  # what runs here runs `python -m cluster.hosts...` in it
HIDDEN_FOLDERS = (Path("/tmp"), Path("/dev/shm"))  # each host has its own
_REAPED_S = 5.0

_libc = ctypes.CDLL(None, use_errno=True)


def spawn_apart(kinds: int, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    """Start a command in new namespaces of these kinds. With PID it is their process 1: when it ends, all end."""
    return _spawn(lambda: _call(_libc.unshare, kinds), command, options)


def spawn_inside(pidfd: int, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    """Start a command in all namespaces of another process. It is reaped as soon as it ends, asked for or not: a
    process 1 cannot end before the last in its namespace has been reaped."""

    def enter() -> None:
        _call(_libc.unshare, _OWN_FOLDER)
        _call(_libc.setns, pidfd, ALL)

    process = _spawn(enter, command, options)
    threading.Thread(target=process.wait, daemon=True).start()
    return process


def _spawn(enter: Callable[[], None], command: Sequence[str], options: dict[str, Any]) -> subprocess.Popen[str]:
    def enter_and_start() -> subprocess.Popen[str]:
        enter()
        return subprocess.Popen(command, text=True, **options)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(enter_and_start).result()


def await_reaped(init: subprocess.Popen[str]) -> None:
    """A killed process 1 ends when all in its namespace have been reaped; for those that strangers put there and do not
    reap we do not wait long. They are dead all the same."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        init.wait(_REAPED_S)


def mount(source: str, target: Path, kind: str | None = None, flags: int = 0, data: str | None = None) -> None:
    words = (os.fsencode(word) if word is not None else None for word in (source, target, kind))
    _call(_libc.mount, *words, ctypes.c_ulong(flags), data.encode() if data is not None else None)


def unmount(target: Path) -> None:
    _call(_libc.umount2, os.fsencode(target), 0)


def _call(function: Callable[..., int], *arguments: object) -> None:
    if function(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
