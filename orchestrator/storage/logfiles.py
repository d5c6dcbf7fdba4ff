"""A log is a row of files: <name>.log is being written; <name>.log.000001 and so on are older, renamed when they had
grown beyond a limit, and the oldest go. They are read as one text, of which no more than a block is ever held.

Written by control/logs.py, read by tracking/logs.py."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

LONGEST_LINE_BYTES = 64 * 2**10  # what is longer is cut when it is read
LINGER_S = 2.5  # how long other writers may go on with a file after one of them has renamed it
_BLOCK_BYTES = 64 * 2**10


class Position(NamedTuple):
    """A place in a log: a byte of the file that has, or will have, this number."""

    number: int
    offset: int


class Line(NamedTuple):
    """A line without its end, and the position after it."""

    text: str
    end: Position


def rotated_file(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number:06d}")


def list_log_files(folder: Path) -> dict[Path, list[int]]:
    """The numbers of each log's files, oldest first; the last one is that of the file that is being written."""
    found: dict[Path, list[int]] = {}
    for entry in os.scandir(folder) if folder.is_dir() else ():
        stem, _, ending = entry.name.rpartition(".")
        if ending == "log":
            found.setdefault(folder / entry.name, [])
        elif stem.endswith(".log") and ending.isdecimal():
            found.setdefault(folder / stem, []).append(int(ending))
    return {path: [*sorted(numbers), max(numbers, default=0) + 1] for path, numbers in found.items()}


def find_last_lines(path: Path, numbers: Sequence[int], count: int) -> Position:
    """Where the last `count` lines begin. Looks at LONGEST_LINE_BYTES for each at most: where lines are longer, it is
    fewer of them, and inside of one."""
    limit_bytes = count * LONGEST_LINE_BYTES
    seen_bytes = 0
    for at, block in _read_backwards(path, numbers):
        if count == 0:
            return Position(at.number, at.offset + len(block))
        stop = len(block) if seen_bytes else len(block) - 1  # a newline at the very end begins no line
        while (stop := block.rfind(b"\n", 0, stop)) >= 0:
            count -= 1
            if count == 0:
                return Position(at.number, at.offset + stop + 1)
        seen_bytes += len(block)
        if seen_bytes >= limit_bytes:
            return at
    return Position(numbers[0], 0)


class LineReader:
    """Follows one log: each call gives the lines that have come since the last."""

    def __init__(self, path: Path, at: Position) -> None:
        self._path, self._at = path, at  # the next byte to read
        self._held = bytearray()  # of a line whose end has not come
        self._cut_bytes = 0
        self._begins_inside: bool | None = None  # of a line; None before the first look
        self._leave_at: float | None = None

    def read_new(self, numbers: Sequence[int], now: float, *, to_the_end: bool) -> Iterator[Line]:
        """`numbers` from list_log_files, `now` on a monotonic clock. `to_the_end`: nothing more will come, so nobody is
        waited for, and what has no newline is a line, too."""
        while True:
            yield from self._settle(numbers)
            yield from self._read_file(numbers)
            if not self._may_go_on(numbers[-1], now, to_the_end):
                break
            self._at, self._leave_at = Position(min(n for n in numbers if n > self._at.number), 0), None
        if to_the_end and self._held:
            yield self._take_line()

    def _settle(self, numbers: Sequence[int]) -> Iterator[Line]:
        """Stand in a file that is there."""
        if self._at.number in numbers:
            return
        later = [number for number in numbers if number > self._at.number]
        self._at = Position(later[0] if later else numbers[0], 0)
        yield Line("[older lines were removed before they had been read]", self._at)

    def _may_go_on(self, newest: int, now: float, to_the_end: bool) -> bool:
        if self._at.number == newest:
            self._leave_at = now + LINGER_S  # pushed on until it has been renamed
            return False
        return to_the_end or self._leave_at is None or now >= self._leave_at

    def _read_file(self, numbers: Sequence[int]) -> Iterator[Line]:
        file = _open_file(self._path, self._at.number, numbers)
        if file is None:
            return
        with file:
            size_bytes = os.fstat(file.fileno()).st_size
            if size_bytes < self._at.offset:  # emptied by hand
                self._move(-self._at.offset)
            if self._begins_inside is None:
                before = max(0, self._at.offset - 1)
                self._begins_inside = os.pread(file.fileno(), self._at.offset - before, before) not in (b"", b"\n")
            file.seek(self._at.offset)
            while block := file.read(min(_BLOCK_BYTES, size_bytes - self._at.offset)):
                *pieces, rest = block.split(b"\n")
                for piece in pieces:
                    self._hold(piece)
                    self._move(len(piece) + 1)
                    yield self._take_line()
                self._hold(rest)
                self._move(len(rest))

    def _move(self, num_bytes: int) -> None:
        self._at = self._at._replace(offset=self._at.offset + num_bytes)

    def _hold(self, piece: bytes) -> None:
        room = LONGEST_LINE_BYTES - len(self._held)
        self._held += piece[:room]
        self._cut_bytes += max(0, len(piece) - room)

    def _take_line(self) -> Line:
        text = self._held.decode(errors="replace")
        if self._begins_inside:
            text = f"[...] {text}"
        if self._cut_bytes:
            text += f" [... {self._cut_bytes:,} more bytes]"
        self._held.clear()
        self._cut_bytes, self._begins_inside = 0, False
        return Line(text, self._at)


def _open_file(path: Path, number: int, numbers: Sequence[int]) -> BinaryIO | None:
    """None when it is gone or not there yet. The one being written may be renamed at any moment: then it has its
    number."""
    renamed = rotated_file(path, number)
    if number == numbers[-1]:
        with suppress(FileNotFoundError):
            file = path.open("rb", buffering=0)
            if not renamed.exists():
                return file
            file.close()
    with suppress(FileNotFoundError):
        return renamed.open("rb", buffering=0)
    return None


def _read_backwards(path: Path, numbers: Sequence[int]) -> Iterator[tuple[Position, bytes]]:
    """Blocks of the log with where they begin, from its end."""
    for number in reversed(numbers):
        file = _open_file(path, number, numbers)
        if file is None:
            continue
        with file:
            end = os.fstat(file.fileno()).st_size
            while end > 0:
                begin = max(0, end - _BLOCK_BYTES)
                yield Position(number, begin), os.pread(file.fileno(), end - begin, begin)
                end = begin
