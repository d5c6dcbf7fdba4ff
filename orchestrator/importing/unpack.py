"""Opens an input as the bytes inside its compression. What breaks while it is read is said of the input."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from orchestrator.importing.sample import Unreadable

_BLOCK_BYTES = 2**20


def _open_zstd(path: str) -> IO[bytes]:
    stream = pa.CompressedInputStream(pa.OSFile(path), "zstd")
    return io.BufferedReader(stream, _BLOCK_BYTES)


_OPENERS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("gz", "tgz"), gzip.GzipFile),
    **dict.fromkeys(("bz2", "tbz", "tbz2"), bz2.BZ2File),
    **dict.fromkeys(("xz", "txz"), lzma.LZMAFile),
    **dict.fromkeys(("zst", "tzst"), _open_zstd),
}


def is_compressed(path: str) -> bool:
    return _ending(path) in _OPENERS


@contextmanager
def unpacked(path: str) -> Iterator[IO[bytes]]:
    """The decompressed stream, by the name's last suffix; other names are read as they are."""
    try:
        with _OPENERS.get(_ending(path), _open_plain)(path) as file:
            yield file
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise Unreadable(
            f"cannot be read to its end: {error}",
            where=path,
            remedy="it may be cut short, damaged, or not what its name says: fetch it again",
        ) from error


def read_blocks(path: str) -> Iterator[bytes]:
    """What `unpacked` gives, from its beginning."""
    with unpacked(path) as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


def _open_plain(path: str) -> IO[bytes]:
    return Path(path).open("rb")


def _ending(path: str) -> str:
    return path.rpartition(".")[2].lower()
