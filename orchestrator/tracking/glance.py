"""A metrics.jsonl of any length at a glance: a bounded part of it is read, however long the run is.

Evenly spaced bytes are nearly evenly spaced steps. For look.py, which does so once a second; whoever needs every row
takes rows.py."""

import io
import json
import os
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from orchestrator.core.errors import DataError
from orchestrator.tracking.rows import Row

BLOCKS = 60
BLOCK_BYTES = 1 << 13  # about thirty steps
FURTHEST_BYTES = 1 << 20  # of one block, where samples of nodes stand between the steps
LONGEST_TAIL_BYTES = 1 << 25  # about a hundred thousand steps

_KIND, _EVALUATION = b'"kind": ', b'"kind": "evaluation"'


def sample_rows(path: Path) -> list[Row]:
    """Steps and validations from all over the file, in its order; every one of a file below half a megabyte."""
    with _open(path) as file:
        size = _size_bytes(file)
        if size <= BLOCKS * BLOCK_BYTES:
            return _rows(path, _read_lines(file, 0, size))
        begins = (block * (size - BLOCK_BYTES) // (BLOCKS - 1) for block in range(BLOCKS))
        return [row for begin in begins for row in _rows_at(path, file, begin)]


def last_steps(path: Path, at_least: int) -> list[Row]:
    """More than asked for come along; fewer when there are not as many near enough."""
    steps: list[Row] = []
    with _open(path) as file:
        for tail in _ever_longer_tails(file):
            steps = _steps(path, tail)
            if len(steps) >= at_least:
                break
    return steps


def last_evaluation(path: Path) -> Row | None:
    """None when there is none near enough."""
    with _open(path) as file:
        for tail in _ever_longer_tails(file):
            before, found, after = tail.rpartition(_EVALUATION)
            if found:
                return _parse(path, before.rpartition(b"\n")[2] + found + after.partition(b"\n")[0])
    return None


def true_steps(rows: Iterable[Row]) -> list[Row]:
    """By step, without those that were done again: in a later generation, or further down in the file."""
    kept: list[Row] = []
    for row in sorted(rows, key=lambda row: int(row["generation"])):
        while kept and kept[-1]["step"] >= row["step"]:
            kept.pop()
        kept.append(row)
    return kept


def thin_out(rows: Sequence[Row], name: str, points: int) -> list[float]:
    """A curve over the steps: the mean of each of at most `points` equal stretches that have rows."""
    stretches: dict[int, list[float]] = {}
    for row in rows:
        stretches.setdefault(row["step"] * points // (rows[-1]["step"] + 1), []).append(row[name])
    return [statistics.fmean(values) for values in stretches.values()]


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return io.BytesIO()  # no step is done yet


def _size_bytes(file: BinaryIO) -> int:
    return file.seek(0, os.SEEK_END)


def _rows_at(path: Path, file: BinaryIO, begin: int) -> list[Row]:
    """Those of a block that has some."""
    length = BLOCK_BYTES
    while not (rows := _rows(path, _read_lines(file, begin, length))) and length < FURTHEST_BYTES:
        length *= 4
    return rows


def _ever_longer_tails(file: BinaryIO) -> Iterator[bytes]:
    size, length = _size_bytes(file), 0
    while length < min(size, LONGEST_TAIL_BYTES):
        length = min(size, max(8 * length, 4 * BLOCK_BYTES))
        yield _read_lines(file, size - length, length)


def _read_lines(file: BinaryIO, begin: int, length: int) -> bytes:
    """The whole lines of a stretch: what is torn at its ends is left out."""
    file.seek(begin)
    data = file.read(length)
    return data[data.find(b"\n") + 1 if begin else 0 : data.rfind(b"\n") + 1]


def _steps(path: Path, lines: bytes) -> list[Row]:
    return [row for row in _rows(path, lines) if "kind" not in row]


def _rows(path: Path, lines: bytes) -> list[Row]:
    """Steps and validations; what else there is need not be parsed."""
    rows = (_parse(path, line) for line in lines.splitlines() if _KIND not in line or _EVALUATION in line)
    return [row for row in rows if "step" in row]  # the head has none


def _parse(path: Path, line: bytes) -> Row:
    try:
        row: Row = json.loads(line)
    except ValueError as error:
        raise DataError(f"holds a line that is no JSON: {error}", where=str(path)) from error
    return row
