"""Where shards are read from, local or remote: list them, stamp them, open their bytes. One object a process.

Comes first in the data corridor. Local shards are mapped (local.py); remote ones are fetched by blocks into the node's
cache (remote.py, cache.py) and mapped from there, so that to readers both are bytes in memory."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from mmap import mmap
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from orchestrator.config.data import DataSection
from orchestrator.core.errors import DataError
from orchestrator.storage.local import Listed, list_local, map_local, stamp_local

Ints = NDArray[np.int64]
BLOCK_BYTES = 2 * 2**20  # of a remote shard: what is fetched, checked and kept as one


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreSettings:
    """Of data.store and data.cache, in a form that travels between processes and can be a key."""

    options: str = "{}"  # JSON: arguments of fsspec's file systems by protocol
    timeout_s: float = 60.0
    retry_for_s: float = 900.0
    cache_folder: str = ""
    cache_bytes: int = 64 * 2**30

    @classmethod
    def of(cls, data: DataSection) -> Self:
        return cls(
            options=json.dumps(data.store.options, sort_keys=True),
            timeout_s=data.store.timeout_s,
            retry_for_s=data.store.retry_for_s,
            cache_folder=data.cache.folder or "",
            cache_bytes=data.cache.limit_bytes,
        )

    @property
    def cache(self) -> Path:
        return Path(self.cache_folder or Path(tempfile.gettempdir()) / "longhaul-cache")


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
    """An open shard. `data` has its whole length; only what was asked for by `need` is really there."""

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


class LocalShard:
    """A mapped file: everything is there."""

    def __init__(self, url: str, stamp: str) -> None:
        self.stamp = stamp
        self.data = map_local(url)

    def need(self, begins: Ints, ends: Ints) -> Fetched:  # noqa: ARG002
        return Fetched()

    def need_all(self) -> Fetched:
        return Fetched()

    def forget(self, begin: int, end: int) -> bool:  # noqa: ARG002
        return False

    def close(self) -> None:
        """The map goes when nobody looks at it any more."""


class Stores:
    """Lists and opens shards wherever they lie."""

    def __init__(self, settings: StoreSettings) -> None:
        self.settings = settings

    def list(self, path: str, key: str = "path") -> list[Listed]:
        """The shards below a folder or prefix, matching a glob, or the one named, sorted by name, by one listing.

        `key` is the config key to name."""
        return list_local(path, key)

    def stamp(self, url: str) -> str:
        """Changes when the bytes may have: size, and time or etag."""
        return stamp_local(url)

    def is_remote(self, url: str) -> bool:
        """Whether a node reads it through its cache."""
        return False

    def open(self, url: str, stamp: str | None = None, blocks: Sequence[str] = ()) -> ShardBytes:
        """The bytes of a shard. With `stamp` it must not have changed since. `blocks` are the xxh3-128 checksums of its
        BLOCK_BYTES-long pieces, when they are known: what is fetched is checked against them."""
        found = stamp_local(url)
        if stamp is not None and found != stamp:
            raise DataError(
                "has changed since it was indexed",
                where=url,
                remedy="run longhaul prepare again; a run goes on only with the bytes it began with",
            )
        return LocalShard(url, found)


@lru_cache(8)
def open_stores(settings: StoreSettings) -> Stores:
    """This process's stores: connections and maps are shared by all who read."""
    return Stores(settings)
