"""Packs samples into tar shards. The same samples give the same bytes: no times, no owners, members as they come.

A shard is written under a temporary name, flushed, and renamed; of a killed worker only that is left."""

import contextlib
import os
import secrets
import tarfile
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

from orchestrator.importing.destination import Destination, writing_there
from orchestrator.importing.sample import Sample, WholeTar
from orchestrator.importing.wish import Wish
from orchestrator.storage.publish import flush_folder

_BLOCK = 512
END_BYTES = 2 * _BLOCK  # zeros after the last member


class Packed(NamedTuple):
    """A finished shard."""

    samples: int
    size_bytes: int


class ShardWriter:
    """The shards of one job, cut where the next sample would not fit."""

    def __init__(self, place: Destination, job: int, wish: Wish) -> None:
        self._place, self._job, self._wish = place, job, wish
        self._file: BinaryIO | None = None
        self._path = Path()
        self._size_bytes = 0
        self._keys: set[str] = set()
        self.packed: list[Packed] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk has been told of already
                self._file.close()
            self._path.unlink(missing_ok=True)

    def add(self, sample: Sample) -> bool:
        """False when the shard has this key already."""
        if sample.key in self._keys:
            return False
        blocks: list[bytes | memoryview] = []
        for suffix, data in sample.members:
            blocks += (make_header(f"{sample.key}.{suffix}", len(data)), data, bytes(-len(data) % _BLOCK))
        size_bytes = sum(map(len, blocks))
        if self._is_full(size_bytes):
            self._close_shard()
        with writing_there(self._place.parts):
            file = self._file or self._open_shard()
            file.writelines(blocks)
        self._size_bytes += size_bytes
        self._keys.add(sample.key)
        return True

    def adopt(self, whole: WholeTar) -> None:
        """A shard that is complete already; only archives bring them, of which each is a job."""
        assert self._file is None
        with writing_there(whole.path):
            _flush_file(whole.path)
            size_bytes = whole.path.stat().st_size
            whole.path.replace(self._place.part(self._job, len(self.packed)))
        self.packed.append(Packed(whole.samples, size_bytes))

    def finish(self) -> list[Packed]:
        """All shards of the job, on disk."""
        self._close_shard()
        with writing_there(self._place.parts):
            flush_folder(self._place.parts)
        return self.packed

    def _is_full(self, more_bytes: int) -> bool:
        if not self._keys:
            return False
        most = self._wish.shard_samples
        too_many = most is not None and len(self._keys) >= most
        return too_many or self._size_bytes + more_bytes + END_BYTES > self._wish.shard_bytes

    def _open_shard(self) -> BinaryIO:
        self._path = self._place.parts / f".{self._job:06d}.{secrets.token_hex(8)}.part"
        self._file = self._path.open("wb")
        return self._file

    def _close_shard(self) -> None:
        if self._file is None:
            return
        with writing_there(self._place.parts):
            self._file.write(bytes(END_BYTES))
            self._file.close()
            _flush_file(self._path)
            self._path.replace(self._place.part(self._job, len(self.packed)))
        self.packed.append(Packed(len(self._keys), self._size_bytes + END_BYTES))
        self._file, self._size_bytes, self._keys = None, 0, set()


def make_header(name: str, size_bytes: int) -> bytes:
    """Of a plain file; PAX records come before it only where ustar cannot hold name or size."""
    info = tarfile.TarInfo(name)
    info.size = size_bytes
    info.uname = info.gname = "longhaul"
    return info.tobuf(tarfile.PAX_FORMAT)


def _flush_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
