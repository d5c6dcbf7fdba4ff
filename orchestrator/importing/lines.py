"""Inputs of JSON lines: one sample a line. A big file that is not compressed is cut by bytes, a line belonging to the
part in which it begins; so its samples are numbered by the byte, which needs no count of the lines before."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import IO, Any

from orchestrator.importing.rows import make_sample
from orchestrator.importing.sample import Input, Piece, Reject, Sample, Unreadable
from orchestrator.importing.unpack import is_compressed, read_blocks, unpacked
from orchestrator.importing.wish import Wish

LONGEST_LINE_BYTES = 256 * 2**20


def cut_lines(source: Input, number: int, wish: Wish) -> list[Piece]:
    if is_compressed(source.path):
        return [Piece(source, number, source.size_bytes)]
    ends = [*range(wish.shard_bytes, source.size_bytes, wish.shard_bytes), source.size_bytes]
    begins = [0, *ends[:-1]]
    return [Piece(source, number, end - begin, begin, end) for begin, end in zip(begins, ends, strict=True)]


def read_lines(piece: Piece, wish: Wish, scratch: Path) -> Generator[Sample | Reject, None, None]:  # noqa: ARG001
    with unpacked(piece.source.path) as file:
        at = _seek_line(file, piece.begin)
        while piece.end is None or at < piece.end:
            line = _read_line(file, piece.source.path, at)
            if not line:
                return
            yield _read_sample(line, at, piece.number, wish)
            at += len(line)


def locate_line(piece: Piece, at: int) -> str:
    """Counted only when it is asked for: a part of a file does not know how many lines are before it."""
    number, left = 1, at
    for block in read_blocks(piece.source.path):
        number += block[:left].count(b"\n")
        left -= len(block)
        if left <= 0:
            break
    return f"{piece.source.path}, line {number}"


def _seek_line(file: IO[bytes], begin: int) -> int:
    """The first line that begins at `begin` or later."""
    if begin == 0:
        return 0
    file.seek(begin - 1)
    while skipped := file.readline(2**20):
        if skipped.endswith(b"\n"):
            break
    return file.tell()


def _read_line(file: IO[bytes], path: str, at: int) -> bytes:
    line = file.readline(LONGEST_LINE_BYTES + 1)
    if len(line) > LONGEST_LINE_BYTES:
        raise Unreadable(
            f"the line at byte {at} is longer than {LONGEST_LINE_BYTES} bytes", where=path, remedy="is it JSON lines?"
        )
    return line


def _read_sample(line: bytes, at: int, number: int, wish: Wish) -> Sample | Reject:
    if not line.strip():
        return Reject(at, "blank line", harmless=True)
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError):
        return Reject(at, "is not JSON", "write one JSON object a line")
    if not isinstance(row, dict):
        return Reject(at, "is no JSON object", "write one JSON object a line")
    return make_sample(row, at, number, wish)
