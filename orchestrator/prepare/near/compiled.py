"""Marks the functions of this room that are compiled to machine code.

The first call compiles, for some seconds; later runs load that from a cache. What a function takes in from another
file is compiled into it, and numba would not see that file change: so the cache is one for the state of all files
of the room."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

P = ParamSpec("P")
R = TypeVar("R")
Kind = TypeVar("Kind", bound=np.generic)

ROOM = Path(__file__).parent
SOURCES = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(ROOM.glob("*.py")))).hexdigest()[:16]


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Without the interpreter's lock, so that threads run it side by side; the types stay those of the source."""
    settings = numba.core.config
    before, settings.CACHE_DIR = settings.CACHE_DIR, str(ROOM / "__pycache__" / SOURCES)
    try:  # a folder that cannot be written to sends numba to the user's own cache
        marked: Callable[P, R] = numba.njit(nogil=True, cache=True)(function)
    finally:
        settings.CACHE_DIR = before
    return marked


@compiled
def enlarge(array: NDArray[Kind], length: int) -> NDArray[Kind]:
    """A longer array that begins with this one; what comes after is not set."""
    larger = np.empty((length,) + array.shape[1:], array.dtype)  # noqa: RUF005  # what numba can compile
    larger[: len(array)] = array
    return larger
