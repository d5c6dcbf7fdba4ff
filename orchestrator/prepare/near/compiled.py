"""Marks the functions of this room that are compiled to machine code.

The first call compiles, in a second or so; later runs load that from a cache. What a function takes in from another
file is compiled into it, and numba would not see that file change: so the cache is one for the state of all files
of the room."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import ParamSpec, TypeVar

import numba
import numpy as np
from numba.core import config
from numba.misc.appdirs import AppDirs
from numpy.typing import NDArray

P = ParamSpec("P")
R = TypeVar("R")
Kind = TypeVar("Kind", bound=np.generic)

ROOM = Path(__file__).parent
SOURCES = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(ROOM.glob("*.py")))).hexdigest()[:16]


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Without the interpreter's lock, so that threads run it side by side; the types stay those of the source."""
    before, config.CACHE_DIR = config.CACHE_DIR, CACHE or ""
    try:
        marked: Callable[P, R] = numba.njit(nogil=True, cache=CACHE is not None)(function)
    finally:
        config.CACHE_DIR = before
    return marked


def _find_cache() -> str | None:
    """The first folder that can be written to; if there is none, every process compiles for itself."""
    for folder in _list_folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=folder).close()
        except OSError:
            continue
        return str(folder)
    return None


def _list_folders() -> Iterator[Path]:
    """In NUMBA_CACHE_DIR if that is set; else beside the source, or in the user's own cache."""
    if config.CACHE_DIR:
        yield Path(config.CACHE_DIR, "longhaul", SOURCES)
        return
    yield ROOM / "__pycache__" / SOURCES
    yield Path(AppDirs("numba", appauthor=False).user_cache_dir, "longhaul", SOURCES)


CACHE = _find_cache()


@compiled
def enlarge(array: NDArray[Kind], length: int) -> NDArray[Kind]:
    """A longer array that begins with this one; what comes after is not set."""
    larger = np.empty((length,) + array.shape[1:], array.dtype)  # noqa: RUF005  # what numba can compile
    larger[: len(array)] = array
    return larger
