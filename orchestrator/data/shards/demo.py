"""Makes the demo datasets as plain tar shards: the sources and documents of this Python installation, and the sets that
come with scikit-learn (demo_sets.py).

The same installation always gives the same bytes. Built in a folder beside the target and renamed into place."""

import json
import os
import shutil
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.core.errors import DataError
from orchestrator.storage.publish import flush_folder
from orchestrator.storage.workplace import writing

TEXT_BYTES = 20_000_000
SHARD_BYTES = 900_000
_SUFFIXES = (".py", ".rst", ".txt", ".md")
_LEFT_OUT = {"site-packages", "dist-packages", "__pycache__"}
_TESTS = {"test", "tests", "idle_test"}
Sample = dict[str, Any]  # as webdataset writes it


class _Document(NamedTuple):
    key: str
    path: str
    text: bytes


def make_demo(name: str, folder: Path) -> None:
    """The shards of one demo in `folder`; does nothing when `folder` is there."""
    folder = folder.expanduser().absolute()
    if folder.exists():
        return
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
        try:
            part.chmod(0o755)
            _write_shards(name, part)
            flush_folder(part)
            _rename_unless_there(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def make_text_demo(folder: Path) -> None:
    """About 20 MB of text in shards of about 1 MB."""
    make_demo("text", folder)


def _write_shards(name: str, folder: Path) -> None:
    from webdataset import ShardWriter  # costs a second to import

    from orchestrator.data.shards.demo_sets import SAMPLES_A_SHARD, list_samples

    settings = {"encoder": False, "verbose": 0, "mtime": 0, "user": "longhaul", "group": "longhaul", "mode": 0o644}
    limit = {"maxsize": SHARD_BYTES} if name == "text" else {"maxcount": SAMPLES_A_SHARD}
    with ShardWriter(f"{folder}/{name}-%04d.tar", **limit, **settings) as writer:
        for sample in _list_texts() if name == "text" else list_samples(name):
            writer.write(sample)


def _list_texts() -> Iterator[Sample]:
    documents = sorted(_find_documents(Path(sysconfig.get_paths()["stdlib"])))
    if not documents:
        raise DataError(
            "this Python installation holds no sources to make a demo of",
            remedy="give data.train[].path a folder of shards",
        )
    for document in documents:
        about = json.dumps({"path": document.path, "bytes": len(document.text)}).encode()
        yield {"__key__": document.key, "txt": document.text, "json": about}


def _find_documents(library: Path) -> Iterator[_Document]:
    """Sources first, then as many of the tests' sources as fit; what is no UTF-8 or empty is passed over."""
    total = 0
    keys: set[str] = set()
    for path in sorted(_list_files(library), key=lambda path: (not _TESTS.isdisjoint(path.split("/")), path)):
        if total >= TEXT_BYTES:
            return
        text = (library / path).read_bytes()
        folder, _, name = path.rpartition("/")
        key = f"{folder}/{name.replace('.', '-')}".lstrip("/")  # a key ends at the first dot of its name
        if text and key not in keys and _is_utf8(text):
            keys.add(key)
            total += len(text)
            yield _Document(key, path, text)


def _list_files(library: Path) -> Iterator[str]:
    for root, folders, files in os.walk(library):
        folders[:] = [name for name in folders if name not in _LEFT_OUT]  # site-packages may hold 10^5 files
        below = Path(root).relative_to(library)
        yield from ((below / name).as_posix() for name in files if name.endswith(_SUFFIXES))


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _rename_unless_there(part: Path, folder: Path) -> None:
    """Of two makers one wins; the other's shards are the same bytes. A rename never replaces a folder with files."""
    try:
        part.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    flush_folder(folder.parent)
