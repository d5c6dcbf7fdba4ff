"""A slot: shared memory that holds one part of a snapshot, and outlives the rank that wrote it.

It is an anonymous memory file of the process that created it (the node actor), reached through /proc/<pid>/fd, so
nothing can be left behind, whoever dies how. A page of numbers, then the part's bytes, then two JSON texts: the part
(part.py), and the checksums of its chunks, once somebody has taken them.

It has one writer at a time. A state that is not WHOLE or SEALED means that nobody may read on."""

import json
import mmap
import os
import struct
from enum import IntEnum
from typing import Final

import xxhash

from orchestrator.checkpoint.layout import CHUNK_BYTES
from orchestrator.checkpoint.part import Part, PartPlace

_HEAD: Final = struct.Struct("<4Q")  # state, bytes of the values, of the part's text, of the checksums' text
_PLACE: Final = struct.Struct("<4Q")  # after it, so that nobody need read the text to know it
_BODY: Final = mmap.PAGESIZE


class SlotState(IntEnum):
    EMPTY = 0
    WRITING = 1
    WHOLE = 2
    SEALED = 3  # whole, and its checksums are known


class Slot:
    def __init__(self, handle: int, path: str) -> None:
        self.path = path
        self._handle = handle
        self._map = self._map_all()

    @classmethod
    def create(cls, name: str) -> "Slot":
        """Empty memory of this process, gone with it."""
        handle = os.memfd_create(f"longhaul-{name}")
        os.truncate(handle, _BODY)
        return cls(handle, f"/proc/{os.getpid()}/fd/{handle}")

    @classmethod
    def open(cls, path: str) -> "Slot":
        """That of another process of this user and pid namespace."""
        return cls(os.open(path, os.O_RDWR | os.O_CLOEXEC), path)

    def close(self) -> None:
        """Of this process only. Views of the memory stay usable."""
        os.close(self._handle)

    # ---- the writer's side ----

    def begin(self, size_bytes: int) -> memoryview:
        """Memory for a part of this size; what was there is gone."""
        self._set_state(SlotState.WRITING)
        self._grow(_BODY + size_bytes)
        self._write_head(size_bytes, 0, 0)
        return memoryview(self._map)[_BODY : _BODY + size_bytes]

    def finish(self, part: Part, lasting: str | None = None) -> None:
        """All values are there. `lasting` as for Part.to_bytes."""
        self.finish_copy(part.place, part.to_bytes(lasting))

    def finish_copy(self, place: PartPlace, text: bytes) -> None:
        """All values are there, and the part is known as text, as when another slot is copied."""
        _PLACE.pack_into(self._map, _HEAD.size, *place)
        self._append_text(text, sealed=False)

    def seal(self) -> tuple[str, ...]:
        """Take the checksums of the part's chunks, and keep them beside it."""
        checks = tuple(hash_chunks(self.body()))
        self._append_text(json.dumps(checks).encode(), sealed=True)
        return checks

    # ---- the reader's side ----

    @property
    def state(self) -> SlotState:
        return SlotState(_HEAD.unpack_from(self._map)[0])

    @property
    def is_whole(self) -> bool:
        return self.state >= SlotState.WHOLE

    @property
    def place(self) -> PartPlace:
        """Of a whole one."""
        return PartPlace(*_PLACE.unpack_from(self._map, _HEAD.size))

    def part(self) -> Part:
        return Part.from_bytes(self.text())

    def text(self) -> bytes:
        """The part as JSON."""
        body, text, _ = self._sizes()
        return self._bytes(_BODY + body, text)

    def checks(self) -> tuple[str, ...]:
        """Of a sealed one."""
        body, text, checks = self._sizes()
        return tuple(json.loads(self._bytes(_BODY + body + text, checks)))

    def body(self) -> memoryview:
        """The part's bytes: a safetensors file."""
        body, _, _ = self._sizes()
        self._follow_growth(_BODY + body)
        return memoryview(self._map)[_BODY : _BODY + body]

    def send_body(self, begin: int, count: int, to: int) -> None:
        """Into a socket, without a copy in between."""
        end = _BODY + begin + count
        at = _BODY + begin
        while at < end:
            at += os.sendfile(to, self._handle, at, end - at)

    @property
    def size_bytes(self) -> int:
        """Of the part."""
        return self._sizes()[0]

    def read_into(self, into: memoryview, begin: int) -> None:
        """Which makes it a chunks.StoredFile."""
        into[:] = self.body()[begin : begin + len(into)]

    # ---- inside ----

    def _map_all(self) -> mmap.mmap:
        return mmap.mmap(self._handle, os.fstat(self._handle).st_size)

    def _grow(self, size_bytes: int) -> None:
        """Never smaller: another process may have mapped what would be cut off."""
        if os.fstat(self._handle).st_size < size_bytes:
            os.truncate(self._handle, size_bytes)
        self._follow_growth(size_bytes)

    def _follow_growth(self, size_bytes: int) -> None:
        if len(self._map) < size_bytes:
            self._map = self._map_all()  # the earlier mapping lives on in the views that were made of it

    def _append_text(self, text: bytes, *, sealed: bool) -> None:
        body, part, _ = self._sizes() if sealed else (self._sizes()[0], 0, 0)
        end = _BODY + body + part
        self._grow(end + len(text))
        self._map[end : end + len(text)] = text
        self._write_head(body, part if sealed else len(text), len(text) if sealed else 0)
        self._set_state(SlotState.SEALED if sealed else SlotState.WHOLE)

    def _sizes(self) -> tuple[int, int, int]:
        _, body, text, checks = _HEAD.unpack_from(self._map)
        return body, text, checks

    def _bytes(self, begin: int, count: int) -> bytes:
        self._follow_growth(begin + count)
        return self._map[begin : begin + count]

    def _write_head(self, *sizes: int) -> None:
        struct.pack_into("<3Q", self._map, 8, *sizes)

    def _set_state(self, state: SlotState) -> None:
        struct.pack_into("<Q", self._map, 0, state)  # one aligned store: seen whole or not at all


def hash_chunks(body: memoryview) -> list[str]:
    """The checksum of every CHUNK_BYTES."""
    return [xxhash.xxh3_128_hexdigest(body[begin : begin + CHUNK_BYTES]) for begin in range(0, len(body), CHUNK_BYTES)]
