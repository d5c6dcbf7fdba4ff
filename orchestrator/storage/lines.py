"""Append-only files of JSON lines: journal, metrics, ledger. A line is there whole or not at all.

Opening for append cuts a torn last line (the writer died inside it); reading passes over one."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from orchestrator.storage.publish import flush_folder


class LineFile:
    """Appends rows; `durable` flushes them to disk before it returns."""

    def __init__(self, path: Path, head: dict[str, Any] | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        cut_torn_line(path)
        self.path = path
        self._file = path.open("ab", buffering=0)  # a buffer would write later what a full disk refused
        if head is not None and self._file.tell() == 0:
            self.append([head], durable=True)
            flush_folder(path.parent)

    def append(self, rows: Iterable[dict[str, Any]], *, durable: bool = False) -> None:
        """All rows, or none when an OSError says that they do not fit."""
        data = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
        end = self._file.tell()
        try:
            while data:
                data = data[self._file.write(data) :]
            if durable:
                os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(end)
            self._file.seek(end)
            raise

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Every whole row; nothing when the file is missing."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


def read_last_lines(path: Path, size_bytes: int) -> list[dict[str, Any]]:
    """The whole rows among the last so many bytes; none when the file is missing."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return []
    with file:
        begin = max(0, file.seek(0, os.SEEK_END) - size_bytes)
        file.seek(begin)
        data = file.read(size_bytes)
    first = data.find(b"\n") + 1 if begin else 0
    return [json.loads(line) for line in data[first : data.rfind(b"\n") + 1].splitlines()]


class LineTail:
    """Follows a growing file: each call gives the whole rows that have come since the last."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0

    def read_new(self) -> list[dict[str, Any]]:
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return []
        with file:
            file.seek(self._at)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


def cut_torn_line(path: Path) -> None:
    """Truncate after the last newline."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return
    with path.open("r+b") as file:
        end = size
        while end > 0:
            begin = max(0, end - 65_536)
            file.seek(begin)
            at = file.read(end - begin).rfind(b"\n")
            if at >= 0:
                end = begin + at + 1
                break
            end = begin
        if end < size:
            file.truncate(end)
