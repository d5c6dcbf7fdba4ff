"""Atomic publishing on a POSIX path: a reader sees the whole file or none, also after a crash."""

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.core.errors import DataError


def publish_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write `data` beside `path`, flush it to disk, then rename it into place. `durable`: otherwise not flushed, for
    what is of no use after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _write_part(path, data, durable=durable)
    part.replace(path)
    if durable:
        flush_folder(path.parent)


def publish_json(path: Path, value: Any, *, durable: bool = True) -> None:
    publish_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode(), durable=durable)


def create_exclusive(path: Path, data: bytes) -> None:
    """Like publish_bytes, but raises FileExistsError when `path` is there: of two callers exactly one succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _write_part(path, data)
    try:
        os.link(part, path)  # unlike rename, never replaces
    finally:
        part.unlink()
    flush_folder(path.parent)


@contextlib.contextmanager
def writing(path: Path, remedy: str) -> Iterator[None]:
    """Say which file could not be written, and what to do about it."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror}", where=str(path), remedy=remedy) from error


def flush_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path, *, expect_format: int = 1) -> Any:
    """Read a JSON file that says `format` in its head; name the file when it cannot be used."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError("file is missing", where=str(path)) from error
    except ValueError as error:
        raise DataError(f"not valid JSON: {error}", where=str(path)) from error
    if not isinstance(value, dict) or value.get("format") != expect_format:
        found = value.get("format") if isinstance(value, dict) else None
        raise DataError(f"format is {found!r}, this Longhaul reads {expect_format}", where=str(path))
    return value


def _write_part(path: Path, data: bytes, *, durable: bool = True) -> Path:
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")  # pids repeat on other hosts, and have threads
    with part.open("wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    return part
