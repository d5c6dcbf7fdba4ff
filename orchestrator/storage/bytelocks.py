"""Locks on single bytes of a file, between processes and threads alike; cache.py marks blocks with them.

They are open-file-description locks: they belong to one opening of the file, and the kernel drops them when that ends,
also by SIGKILL, so a lock never outlives its holder. Two threads must open the file twice to keep each other out."""

import fcntl
import os
import struct


def reopen(descriptor: int) -> int:
    """Another opening of the same file, whatever has become of its name, with locks of its own."""
    return os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)


def lock_bytes(descriptor: int, begin: int, count: int) -> None:
    """Wait until nobody else holds any of these bytes, then hold them until the descriptor is closed."""
    _lock(descriptor, fcntl.F_OFD_SETLKW, fcntl.F_WRLCK, begin, count)


def share_byte(descriptor: int, place: int) -> None:
    """Hold a byte together with others who share it; wait while somebody has it alone."""
    _lock(descriptor, fcntl.F_OFD_SETLKW, fcntl.F_RDLCK, place, 1)


def try_lock_byte(descriptor: int, place: int) -> bool:
    """Hold a byte alone, if nobody holds it now."""
    try:
        _lock(descriptor, fcntl.F_OFD_SETLK, fcntl.F_WRLCK, place, 1)
    except BlockingIOError:
        return False
    return True


def _lock(descriptor: int, command: int, kind: int, begin: int, count: int) -> None:
    fcntl.fcntl(descriptor, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, begin, count, 0))  # struct flock
