"""Keeps blocks of remote shards on the node's own disk, so that a node fetches each block once, whoever wants it.

Between remote.py and those who map shards. A version of a shard has one sparse file: its bytes, and after them one byte
a block, 1 when the block is there. Whoever fetches a block holds the lock of its byte, so others wait and then find it.
File names differ with every boot, since what a crash of the machine left half written must not be believed."""

import contextlib
import errno
import logging
import os
import stat
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from mmap import ACCESS_READ, ALLOCATIONGRANULARITY, mmap
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from orchestrator.core.errors import DataError
from orchestrator.storage.bytelocks import lock_bytes, reopen, share_byte, try_lock_byte
from orchestrator.storage.shard import BLOCK_BYTES, Fetched, Ints

RUN_BLOCKS = 8  # at most fetched by one request
THREADS = 8  # requests under way in a process
WRONG_TRIES = 3
_FORMAT = 1
_IN_USE = 2**62  # the byte whose lock is shared by all who have the file open; past every block's
_SUFFIX = ".blocks"
Read = Callable[[int, int], bytes]
log = logging.getLogger(__name__)


class NodeCache:
    """The folder, its limit, and the threads that fetch."""

    def __init__(self, folder: Path, limit_bytes: int, let_go: Callable[[], None]) -> None:
        """`let_go` closes files that this process has open without using them."""
        self.folder, self.limit_bytes, self._let_go = folder, limit_bytes, let_go
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="fetch")
        self._lock = threading.Lock()
        self._written_bytes = limit_bytes  # since the folder was last looked through: look before the first block
        with self.writing():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise DataError(
                "is not a folder that only its owner, the user of this process, can write to",
                where=f"data.cache.folder={folder}",
                remedy="set data.cache.folder to another one",
            )

    def open(self, url: str, stamp: str, blocks: Sequence[str], read: Read) -> "CachedShard":
        """A shard of which some blocks may be there. `read` fetches a range of its bytes."""
        name = xxhash.xxh3_128_hexdigest("\0".join((str(_FORMAT), str(BLOCK_BYTES), self._boot, url, stamp)).encode())
        size = int(stamp.partition("-")[0])
        with self.writing():
            descriptor = _open_shared(self.folder / f"{name}{_SUFFIX}")
            os.ftruncate(descriptor, _marks_offset(size) + _count_blocks(size))
            os.utime(descriptor)  # the least recently opened goes first
        return CachedShard(self, descriptor, url, stamp, size, blocks, read)

    def fetch_all(self, fetch: Callable[[int, int], Fetched], runs: list[tuple[int, int]]) -> Fetched:
        """Fetch runs of blocks, several at once."""
        if len(runs) == 1:
            return fetch(*runs[0])
        return sum(self._threads.map(lambda run: fetch(*run), runs), Fetched())

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        """Write all of it; a full disk is tried once more after everything unused has gone."""
        self._keep_limit(len(data))
        try:
            _write_all(descriptor, data, offset)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._evict(0)
            _write_all(descriptor, data, offset)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Say which folder failed, and which config key moves it."""
        try:
            yield
        except OSError as error:
            raise DataError(
                f"the node's cache of remote shards cannot be written: {error.strerror}",
                where=f"data.cache.folder={self.folder}",
                remedy="free space there, make it writable, or set data.cache.folder and data.cache.limit_bytes",
            ) from error

    def _keep_limit(self, coming_bytes: int) -> None:
        """Look through the folder once in a while: a folder of many files is slow to look through."""
        with self._lock:
            self._written_bytes += coming_bytes
            due = self._written_bytes > self.limit_bytes // 64
            if due:
                self._written_bytes = 0
        if due:
            self._evict(self.limit_bytes - coming_bytes)

    def _evict(self, target_bytes: int) -> None:
        """Remove files that nobody has open, the least recently used first, until the rest takes up no more."""
        if self._remove_unused(target_bytes) > target_bytes:
            self._let_go()
            self._remove_unused(target_bytes)

    def _remove_unused(self, target_bytes: int) -> int:
        found = sorted((one.st_mtime_ns, one.st_blocks * 512, path) for path, one in self._scan())
        taken = sum(size for _, size, _ in found)
        for _, size, path in found:
            if taken <= target_bytes:
                break
            if _remove_if_unused(path):
                taken -= size
        return taken

    def _scan(self) -> Iterator[tuple[str, os.stat_result]]:
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith(_SUFFIX):
                    with contextlib.suppress(FileNotFoundError):  # another process removes too
                        yield entry.path, entry.stat()


class CachedShard:
    """An open remote shard (a ShardBytes). Its file stays while this object or its `data` lives."""

    def __init__(
        self, cache: NodeCache, descriptor: int, url: str, stamp: str, size: int, blocks: Sequence[str], read: Read
    ) -> None:
        self.url, self.stamp, self.size_bytes = url, stamp, size
        self._cache, self._descriptor, self._blocks, self._read = cache, descriptor, blocks, read
        self._num_blocks, self._marks_at = _count_blocks(size), _marks_offset(size)
        weakref.finalize(self, os.close, descriptor)
        self.data: mmap | bytes = b""
        self._there: NDArray[np.uint8] = np.zeros(0, np.uint8)
        if size:  # nothing cannot be mapped
            self.data = mmap(descriptor, size, access=ACCESS_READ)
            marks = mmap(descriptor, self._num_blocks, access=ACCESS_READ, offset=self._marks_at)
            self._there = np.frombuffer(marks, np.uint8)

    def need(self, begins: Ints, ends: Ints) -> Fetched:
        """Return when the bytes of all these extents are there."""
        return self._need(mark_blocks(begins, ends, self._num_blocks))

    def need_all(self) -> Fetched:
        return self._need(np.ones(self._num_blocks, np.bool_))

    def forget(self, begin: int, end: int) -> bool:
        """Mark the blocks of these bytes absent; true, since the store may give better ones."""
        first, stop = begin // BLOCK_BYTES, -(-end // BLOCK_BYTES)
        if first < stop:
            with self._locked(first, stop) as descriptor:
                _write_all(descriptor, bytes(stop - first), self._marks_at + first)
        return True

    def close(self) -> None:
        """The file is let go of when nobody looks at it any more."""

    def _need(self, wanted: NDArray[np.bool_]) -> Fetched:
        missing = wanted & (self._there == 0)
        if not missing.any():
            return Fetched(int(wanted.sum()))
        fetched = self._cache.fetch_all(self._fetch_run, find_runs(missing))
        return Fetched(int(wanted.sum()) - fetched.misses, fetched.misses, fetched.size_bytes)

    def _fetch_run(self, first: int, stop: int) -> Fetched:
        """Fetch what is still missing of blocks that lie together, once nobody else fetches them."""
        fetched = Fetched()
        with self._locked(first, stop) as descriptor:
            missing = np.zeros(self._num_blocks, np.bool_)
            missing[first:stop] = self._there[first:stop] == 0
            for begin, end in find_runs(missing):
                data = self._fetch_checked(begin, end)
                with self._cache.writing():
                    self._cache.write(descriptor, data, begin * BLOCK_BYTES)
                    self._cache.write(descriptor, b"\1" * (end - begin), self._marks_at + begin)
                fetched += Fetched(0, end - begin, len(data))
        return fetched

    def _fetch_checked(self, first: int, stop: int) -> bytes:
        for attempt in range(1, WRONG_TRIES + 1):
            data = self._read(first * BLOCK_BYTES, min(stop * BLOCK_BYTES, self.size_bytes))
            wrong = self._find_wrong(data, first)
            if wrong is None:
                return data
            log.warning("%s: block %d came with a wrong checksum (time %d)", self.url, wrong, attempt)
        raise DataError(
            f"block {wrong} of {BLOCK_BYTES} bytes came {WRONG_TRIES} times with other bytes than when it was indexed",
            where=self.url,
            remedy="the store or the way to it alters bytes: copy the shard there again, then run longhaul prepare",
        )

    def _find_wrong(self, data: bytes, first: int) -> int | None:
        if not self._blocks:
            return None
        view = memoryview(data)
        for place in range(0, len(data), BLOCK_BYTES):
            block = first + place // BLOCK_BYTES
            if xxhash.xxh3_128_hexdigest(view[place : place + BLOCK_BYTES]) != self._blocks[block]:
                return block
        return None

    @contextlib.contextmanager
    def _locked(self, first: int, stop: int) -> Iterator[int]:
        """An opening of the file of one's own, with the locks of these blocks."""
        with self._cache.writing():
            descriptor = reopen(self._descriptor)
        try:
            lock_bytes(descriptor, first, stop - first)
            yield descriptor
        finally:
            os.close(descriptor)


def mark_blocks(begins: Ints, ends: Ints, num_blocks: int) -> NDArray[np.bool_]:
    """Which blocks these extents touch; empty extents touch none."""
    full = ends > begins
    changes = np.zeros(num_blocks + 1, np.int64)
    np.add.at(changes, begins[full] // BLOCK_BYTES, 1)
    np.add.at(changes, (ends[full] - 1) // BLOCK_BYTES + 1, -1)
    return np.asarray(np.cumsum(changes)[:num_blocks] > 0)


def find_runs(blocks: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Marked blocks that lie together, as (first, stop), none longer than one request may be."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], blocks, [False]))))
    return [
        (at, min(at + RUN_BLOCKS, int(stop)))
        for first, stop in edges.reshape(-1, 2)
        for at in range(int(first), int(stop), RUN_BLOCKS)
    ]


def _count_blocks(size_bytes: int) -> int:
    return -(-size_bytes // BLOCK_BYTES)


def _marks_offset(size_bytes: int) -> int:
    """Where the marks begin: at the next place that can be mapped."""
    return -(-size_bytes // ALLOCATIONGRANULARITY) * ALLOCATIONGRANULARITY


def _open_shared(path: Path) -> int:
    """Open or make a file that from now on nobody removes."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        share_byte(descriptor, _IN_USE)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # removed between the two


def _remove_if_unused(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        if not try_lock_byte(descriptor, _IN_USE):
            return False
        if os.fstat(descriptor).st_nlink:  # else another process was faster, and the name may be a new file's
            Path(path).unlink()
        return True
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
