"""Bytes of ranks' files, none of which is used before its checksum has been compared. Only the chunks needed are read.

Below reader.py, which knows what the bytes mean; above shelf.py, which has the files."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Protocol

import xxhash

from orchestrator.checkpoint.layout import CHUNK_BYTES, RankRecord
from orchestrator.core.errors import CheckpointDamaged

RECENT_CHUNKS = 8  # kept in memory, since neighbouring tensors lie in one chunk


class ByteSource(Protocol):
    """Bytes that can be read from anywhere on: a file, an object in a store, memory of this node or of another one.

    Several threads read at once."""

    def read_into(self, into: memoryview, begin: int) -> None:
        """Fill `into` with the bytes from `begin` on."""
        ...

    def close(self) -> None: ...


class StoredFile(ByteSource, Protocol):
    """A ByteSource as it is stored, unchecked."""

    @property
    def size_bytes(self) -> int: ...


class RecentChunks:
    """The last checked chunks that were needed in part, of all files of a checkpoint."""

    def __init__(self, limit: int = RECENT_CHUNKS) -> None:
        self._limit, self._lock = limit, threading.Lock()
        self._chunks: OrderedDict[tuple[str, int], memoryview] = OrderedDict()

    def get(self, where: str, number: int) -> memoryview | None:
        with self._lock:
            found = self._chunks.get((where, number))
            if found is not None:
                self._chunks.move_to_end((where, number))
            return found

    def put(self, where: str, number: int, chunk: memoryview) -> None:
        with self._lock:
            self._chunks[where, number] = chunk
            if len(self._chunks) > self._limit:
                self._chunks.popitem(last=False)


class CheckedFile:
    """A ByteSource over one rank's file; opened when it is first needed."""

    def __init__(
        self, open_file: Callable[[], StoredFile], record: RankRecord, where: str, recent: RecentChunks | None = None
    ) -> None:
        self._open, self._record, self._where = open_file, record, where
        self._recent = recent or RecentChunks()
        self._lock = threading.Lock()
        self._file: StoredFile | None = None

    def read_into(self, into: memoryview, begin: int) -> None:
        file = self._opened()
        if not self._record.chunks:  # an earlier version wrote it: it has been checked as a whole
            self._read(file, into, begin)
            return
        for number, first, piece in self._cut(into, begin):
            if len(piece) == self._chunk_bytes(number):
                self._read_chunk(file, number, piece)
            else:
                piece[:] = self._chunk(file, number)[first : first + len(piece)]

    def check(self) -> None:
        """Look at every byte. Raises CheckpointDamaged."""
        file = self._opened()
        buffer = memoryview(bytearray(min(CHUNK_BYTES, self._record.size_bytes)))
        for number in range(len(self._record.chunks)):
            self._read_chunk(file, number, buffer[: self._chunk_bytes(number)])

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    # ---- inside ----

    def _opened(self) -> StoredFile:
        with self._lock:
            if self._file is None:
                self._file = self._open_checked()
            return self._file

    def _open_checked(self) -> StoredFile:
        try:
            file = self._open()
        except OSError as error:
            raise CheckpointDamaged(f"cannot be opened: {error.strerror}", where=self._where) from error
        try:
            self._check_size(file)
            if not self._record.chunks:
                self._check_whole(file)
        except BaseException:
            file.close()
            raise
        return file

    def _check_size(self, file: StoredFile) -> None:
        found, written = file.size_bytes, self._record.size_bytes
        if found != written:
            raise CheckpointDamaged(f"has {found} bytes, {written} were written", where=self._where)

    def _check_whole(self, file: StoredFile) -> None:
        hasher, buffer = xxhash.xxh3_128(), memoryview(bytearray(min(CHUNK_BYTES, self._record.size_bytes)))
        for begin in range(0, self._record.size_bytes, CHUNK_BYTES):
            piece = buffer[: self._record.size_bytes - begin]
            self._read(file, piece, begin)
            hasher.update(piece)
        self._compare(hasher.hexdigest(), self._record.xxh3_128, 0, self._record.size_bytes)

    def _cut(self, into: memoryview, begin: int) -> Iterator[tuple[int, int, memoryview]]:
        """(chunk, first byte in it, where its bytes go)"""
        assert 0 <= begin <= begin + len(into) <= self._record.size_bytes
        done = 0
        while done < len(into):
            number, first = divmod(begin + done, CHUNK_BYTES)
            piece = into[done : done + CHUNK_BYTES - first]
            yield number, first, piece
            done += len(piece)

    def _chunk(self, file: StoredFile, number: int) -> memoryview:
        chunk = self._recent.get(self._where, number)
        if chunk is None:
            chunk = memoryview(bytearray(self._chunk_bytes(number)))
            self._read_chunk(file, number, chunk)
            self._recent.put(self._where, number, chunk)
        return chunk

    def _chunk_bytes(self, number: int) -> int:
        return min(CHUNK_BYTES, self._record.size_bytes - number * CHUNK_BYTES)

    def _read_chunk(self, file: StoredFile, number: int, into: memoryview) -> None:
        begin = number * CHUNK_BYTES
        self._read(file, into, begin)
        self._compare(xxhash.xxh3_128_hexdigest(into), self._record.chunks[number], begin, begin + len(into))

    def _read(self, file: StoredFile, into: memoryview, begin: int) -> None:
        try:
            file.read_into(into, begin)
        except EOFError as error:
            raise CheckpointDamaged(f"ends before byte {begin + len(into)}", where=self._where) from error
        except OSError as error:
            raise CheckpointDamaged(f"cannot be read at byte {begin}: {error.strerror}", where=self._where) from error

    def _compare(self, found: str, written: str, begin: int, end: int) -> None:
        if found != written:
            what = f"bytes {begin} to {end} differ from those written: their xxh3-128 is another"
            raise CheckpointDamaged(what, where=self._where)
