"""Where shards are read from, local or remote: list them, stamp them, open their bytes. One object a process.

Comes first in the data corridor. Local shards are mapped (local.py); remote ones are fetched by blocks into the node's
cache (remote.py, cache.py) and mapped from there, so that to readers both are bytes in memory."""

import json
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from orchestrator.config.data import DataSection
from orchestrator.core.clock import Clock, SystemClock
from orchestrator.core.errors import BadInput
from orchestrator.storage.cache import NodeCache
from orchestrator.storage.local import Listed, list_local, map_local, stamp_local
from orchestrator.storage.objects import Objects
from orchestrator.storage.remote import RemoteStore, find_protocol
from orchestrator.storage.retry import Retry, has_changed
from orchestrator.storage.shard import BLOCK_BYTES, Fetched, Ints, ShardBytes

__all__ = ["BLOCK_BYTES", "Fetched", "Ints", "ShardBytes", "StoreSettings", "Stores", "open_stores"]
OPEN_SHARDS = 32  # kept open in a process, since samples come from a few shards in turn


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
        """A node's users have a cache each, since nobody should read bytes that another one may have altered."""
        return Path(self.cache_folder or Path(tempfile.gettempdir()) / f"longhaul-cache-{os.geteuid()}").expanduser()


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
    """Lists and opens shards wherever they lie. Nothing is connected, started or created before it is needed."""

    def __init__(self, settings: StoreSettings, clock: Clock | None = None) -> None:
        self.settings = settings
        self._clock = clock or SystemClock()
        self._options: dict[str, dict[str, Any]] = json.loads(settings.options)
        self._lock = threading.Lock()
        self._remote: dict[str, RemoteStore] = {}
        self._cache: NodeCache | None = None
        self._open: OrderedDict[tuple[str, str, bool], ShardBytes] = OrderedDict()

    def list(self, path: str, key: str = "path") -> list[Listed]:
        """The shards below a folder or prefix, matching a glob, or the one named, sorted by name, by one listing.

        `key` is the config key to name."""
        remote = self._find_remote(path, f"{key}={path}")
        return remote.find_shards(path, key) if remote else list_local(path, key)

    def stamp(self, url: str) -> str:
        """Changes when the bytes may have: size, and time or etag. A request, if the shard is remote."""
        remote = self._find_remote(url, url)
        return remote.stamp(url) if remote else stamp_local(url)

    def has_changed(self, url: str, stamp: str) -> bool:
        """Whether bytes that were read of an opened shard may not be those of its stamp.

        No request where the store compares with each read, or asks after it: then the read itself has failed."""
        return not self.is_remote(url) and stamp_local(url) != stamp

    def is_remote(self, url: str) -> bool:
        """Whether a node reads it through its cache."""
        return find_protocol(url, url) is not None

    def open(self, url: str, stamp: str | None = None, blocks: Sequence[str] = ()) -> ShardBytes:
        """The bytes of a shard. With `stamp` it must not have changed since. `blocks` are the xxh3-128 checksums of its
        BLOCK_BYTES-long pieces, when they are known: what is fetched is checked against them."""
        remote = self._find_remote(url, url)
        if remote is None:
            return _open_local(url, stamp)
        stamp = stamp or remote.stamp(url)
        name = (url, stamp, bool(blocks))
        with self._lock:
            if name in self._open:
                self._open.move_to_end(name)
                return self._open[name]
        opened = self._open_cache().open(url, stamp, blocks, lambda begin, end: remote.read(url, stamp, begin, end))
        with self._lock:
            self._open[name] = opened
            while len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
        return opened

    def objects(self, url: str) -> Objects:
        """What lies, or is to lie, below a URL."""
        remote = self._find_remote(url, url)
        if remote is None:
            raise BadInput("is a path of files, not a URL of a store", where=url)
        return Objects(remote, url.rstrip("/"))

    def _open_cache(self) -> NodeCache:
        with self._lock:
            if self._cache is None:
                self._cache = NodeCache(self.settings.cache, self.settings.cache_bytes, self._let_go)
            return self._cache

    def _let_go(self) -> None:
        with self._lock:
            self._open.clear()

    def _find_remote(self, url: str, where: str) -> RemoteStore | None:
        """The store of a URL, one for each bucket or server; none for files."""
        protocol = find_protocol(url, where)
        if protocol is None:
            return None
        root = f"{protocol}://{urlsplit(url).netloc}"
        with self._lock:
            if root not in self._remote:
                options = self._options.get(protocol, {})
                endpoint = options.get("endpoint_url")
                name = f"{root} at {endpoint}" if endpoint else root
                retry = Retry(name, self.settings.retry_for_s, self._clock)
                self._remote[root] = RemoteStore(root, options, self.settings.timeout_s, retry)
            return self._remote[root]


def _open_local(url: str, stamp: str | None) -> LocalShard:
    found = stamp_local(url)
    if stamp is not None and found != stamp:
        raise has_changed(url)
    return LocalShard(url, found)


@lru_cache(8)
def open_stores(settings: StoreSettings) -> Stores:
    """This process's stores: connections and maps are shared by all who read."""
    return Stores(settings)


os.register_at_fork(after_in_child=open_stores.cache_clear)  # connections and threads stay with the parent
