"""What an open shard is to those who read samples, wherever it lies. stores.py opens it, cache.py fetches it."""

from mmap import mmap
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
BLOCK_BYTES = 2 * 2**20  # of a remote shard: what is fetched, checked and kept as one


class Fetched(NamedTuple):
    """What making bytes present took: blocks that were there, blocks that were fetched, bytes that came for it."""

    hits: int = 0
    misses: int = 0
    size_bytes: int = 0

    def __add__(self, other: object) -> "Fetched":  # of two figures, not of two tuples
        if not isinstance(other, Fetched):
            return NotImplemented
        return Fetched(self.hits + other.hits, self.misses + other.misses, self.size_bytes + other.size_bytes)


class ShardBytes(Protocol):
    """An open shard. `data` has its whole length; only what was asked for by `need` is really there.

    Any number of threads may use it at once. What it holds goes when nobody looks at it or its data any more."""

    data: mmap | bytes
    stamp: str

    def need(self, begins: Ints, ends: Ints) -> Fetched:
        """Return when the bytes of all these extents are there."""
        ...

    def need_all(self) -> Fetched: ...

    def forget(self, begin: int, end: int) -> bool:
        """These bytes proved wrong. Whether fetching them again may help; if so, ask for them anew."""
        ...

    def close(self) -> None: ...
