"""Where checkpoints are kept: a folder that all nodes see alike, or a prefix in an object store (remote_shelf.py).

Below writer.py, found.py, reader.py and keep.py, which say what the files of a checkpoint are."""

import os
import shutil
from pathlib import Path
from typing import Protocol

from orchestrator.checkpoint import layout
from orchestrator.checkpoint.chunks import StoredFile
from orchestrator.checkpoint.remote_shelf import RemoteShelf
from orchestrator.config.run import RunConfig
from orchestrator.storage.objects import PART_BYTES, Piece
from orchestrator.storage.publish import flush_folder, publish_bytes
from orchestrator.storage.stores import StoreSettings

GIB = 2**30
Address = Path | str  # of a checkpoint: its folder, or its URL in a store


class Shelf(Protocol):
    """Checkpoints by name. What fails raises OSError, or StoreDown for a store that has been asked for long enough."""

    def address(self, name: str) -> Address:
        """Of a checkpoint, whether it is there or not."""
        ...

    def where(self, name: str, file: str = "") -> str:
        """The address as messages name it."""
        ...

    def list(self) -> dict[str, dict[str, int]]:
        """The files of every folder with a checkpoint's name, finished or not, and their sizes."""
        ...

    def read(self, name: str, file: str) -> bytes:
        """A small file. Raises FileNotFoundError."""
        ...

    def open(self, name: str, file: str) -> StoredFile:
        """A large one. Raises FileNotFoundError."""
        ...

    def write(self, name: str, file: str, size_bytes: int, piece: Piece) -> None:
        """A large file, durable when this returns. May leave half of it behind."""
        ...

    def publish(self, name: str, file: str, data: bytes) -> None:
        """A small file, there whole or not at all, durable when this returns."""
        ...

    def settle(self, name: str) -> None:
        """What others have put into a checkpoint can be seen here, and is as durable as the name of its folder."""
        ...

    def remove(self, name: str) -> None:
        """A checkpoint or what there is of one; from the first moment on it is none any more."""
        ...


class LocalShelf:
    """A folder, on a disk of this machine or on NFS."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def address(self, name: str) -> Path:
        return self.folder / name

    def where(self, name: str, file: str = "") -> str:
        return str(self.folder / name / file)

    def list(self) -> dict[str, dict[str, int]]:
        if not self.folder.is_dir():
            return {}
        return {path.name: _sizes(path) for path in self.folder.iterdir() if layout.parse_name(path.name)}

    def read(self, name: str, file: str) -> bytes:
        return (self.folder / name / file).read_bytes()

    def open(self, name: str, file: str) -> "LocalFile":
        return LocalFile(self.folder / name / file)

    def write(self, name: str, file: str, size_bytes: int, piece: Piece) -> None:
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        _check_free_space(path, size_bytes)
        with (path / file).open("wb", buffering=0) as opened:
            for begin in range(0, size_bytes, PART_BYTES):
                data = memoryview(piece(begin, min(begin + PART_BYTES, size_bytes)))
                while data:  # one call writes 2 GiB at most, and less when it is interrupted
                    data = data[opened.write(data) :]
            os.fsync(opened.fileno())

    def publish(self, name: str, file: str, data: bytes) -> None:
        publish_bytes(self.folder / name / file, data)  # flushes the folder, with all names in it

    def settle(self, name: str) -> None:
        flush_folder(self.folder / name)  # on NFS, opening a folder is what makes files of other nodes appear in it
        flush_folder(self.folder)

    def remove(self, name: str) -> None:
        path = self.folder / name
        if (path / layout.COMMIT).exists():
            (path / layout.COMMIT).unlink()
            flush_folder(path)
        if path.exists():
            shutil.rmtree(path)


class LocalFile:
    """A StoredFile. Ranged reads, not mmap: a file that shrinks under a mapping kills the process with SIGBUS."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    @property
    def size_bytes(self) -> int:
        return os.fstat(self._handle).st_size

    def read_into(self, into: memoryview, begin: int) -> None:
        done = 0
        while done < len(into):
            count = os.preadv(self._handle, [into[done:]], begin + done)
            if count == 0:
                raise EOFError
            done += count

    def close(self) -> None:
        os.close(self._handle)


def open_shelf(config: RunConfig, folder: Path) -> Shelf:
    """That of a run; `folder` is used where the config names no store."""
    store = config.checkpoint.store
    if store is None:
        return LocalShelf(folder)
    return RemoteShelf(f"{store.rstrip('/')}/{config.name}", StoreSettings.of(config.data))


def to_shelf(kept: Shelf | Path) -> Shelf:
    """A folder is a shelf, too."""
    return LocalShelf(kept) if isinstance(kept, Path) else kept


def shelf_of(address: Address, settings: StoreSettings | None = None) -> tuple[Shelf, str]:
    """The shelf of one checkpoint, and the checkpoint's name on it. Of `settings` only stores need any."""
    if isinstance(address, Path) or "://" not in address:
        return LocalShelf(Path(address).parent), Path(address).name
    url, _, name = address.rstrip("/").rpartition("/")
    return RemoteShelf(url, settings or StoreSettings()), name


def _sizes(path: Path) -> dict[str, int]:
    """Nothing of a folder that is just being removed."""
    try:
        with os.scandir(path) as entries:
            return {entry.name: entry.stat().st_size for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return {}


def _check_free_space(path: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(path).free
    if free_bytes < needed_bytes:
        raise OSError(
            f"{path} needs {needed_bytes / GIB:.3f} GiB for this rank and has {free_bytes / GIB:.3f} GiB free; "
            "make room, or keep fewer checkpoints (checkpoint.keep.last, checkpoint.keep.best)"
        )
