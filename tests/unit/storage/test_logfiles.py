"""Reading logs that are cut into files, against what plain Python says about the whole text."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.storage.logfiles import (
    LINGER_S,
    LONGEST_LINE_BYTES,
    LineReader,
    Position,
    find_last_lines,
    list_log_files,
    rotated_file,
)

START = Position(1, 0)
TEXT = st.lists(st.sampled_from([b"a", b"\n", b"line\n", b"x" * 70_000, b"\xff"]), max_size=12).map(b"".join)


def write_files(folder: Path, *parts: bytes) -> Path:
    """The last one is being written."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    path = folder / "rank.log"
    for number, part in enumerate(parts[:-1], 1):
        rotated_file(path, number).write_bytes(part)
    path.write_bytes(parts[-1])
    return path


def numbers_of(path: Path) -> list[int]:
    return list_log_files(path.parent)[path]


def read(path: Path, at: Position = START, *, to_the_end: bool = True) -> list[str]:
    reader = LineReader(path, at)
    return [line.text for line in reader.read_new(numbers_of(path), 0.0, to_the_end=to_the_end)]


def lines_of(text: bytes) -> list[bytes]:
    """Split at newlines only."""
    return [*text.split(b"\n")][: -1 if text.endswith(b"\n") or not text else None]


def shown(line: bytes) -> str:
    cut = len(line) - LONGEST_LINE_BYTES
    return line[:LONGEST_LINE_BYTES].decode(errors="replace") + (f" [... {cut:,} more bytes]" if cut > 0 else "")


def test_files_are_listed_oldest_first_with_the_one_being_written(tmp_path: Path) -> None:
    for name in ("a.log", "a.log.000010", "a.log.000009", "10.0.0.1.log", "a.log.txt", "b.log.000002"):
        (tmp_path / name).touch()
    assert list_log_files(tmp_path) == {
        tmp_path / "a.log": [9, 10, 11],
        tmp_path / "10.0.0.1.log": [1],
        tmp_path / "b.log": [2, 3],  # it is just being renamed
    }
    assert list_log_files(tmp_path / "missing") == {}


@given(parts=st.lists(TEXT, min_size=1, max_size=4))
def test_files_are_read_as_one_text(tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]) -> None:
    path = write_files(tmp_path_factory.getbasetemp() / "whole", *parts)
    assert read(path) == [shown(line) for line in lines_of(b"".join(parts))]


@given(parts=st.lists(TEXT, min_size=1, max_size=4), count=st.integers(0, 5))
def test_the_last_lines_are_those_of_the_whole_text(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], count: int
) -> None:
    """Where they are longer than is looked at it may be fewer, the first of them from its middle."""
    path = write_files(tmp_path_factory.getbasetemp() / "last", *parts)
    whole = [shown(line) for line in lines_of(b"".join(parts))]
    found = read(path, find_last_lines(path, numbers_of(path), count))
    wanted = whole[len(whole) - count :] if count <= len(whole) else whole
    if all(len(line) < 1_000 for line in wanted):
        assert found == wanted
    else:
        assert len(found) <= len(wanted)
        assert found[1:] == wanted[len(wanted) - len(found) + 1 :]


@given(parts=st.lists(TEXT, min_size=1, max_size=4), stop=st.integers(0, 20))
def test_reading_goes_on_from_the_position_of_any_line(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], stop: int
) -> None:
    path = write_files(tmp_path_factory.getbasetemp() / "position", *parts)
    lines = list(LineReader(path, START).read_new(numbers_of(path), 0.0, to_the_end=True))
    for line, following in zip(lines[stop:], lines[stop + 1 :], strict=False):
        assert read(path, line.end)[0] == following.text


def test_the_end_of_two_gigabytes_without_a_newline_is_found_by_reading_little(tmp_path: Path) -> None:
    path = tmp_path / "rank.log"
    with path.open("wb") as file:
        file.truncate(2 * 2**30)
        file.seek(0, 2)
        file.write(b"\nthe end\n")
    before = bytes_read()
    at = find_last_lines(path, [1], 50)
    lines = read(path, at)
    assert bytes_read() - before < 2.5 * 50 * LONGEST_LINE_BYTES
    assert [line[:10] for line in lines] == ["[...] \0\0\0\0", "the end"]
    assert lines[0].endswith(" more bytes]")


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])  # rchar


def test_a_line_counts_once_its_newline_has_come(tmp_path: Path) -> None:
    path = write_files(tmp_path, b"one\ntw")
    reader = LineReader(path, START)
    assert [line.text for line in reader.read_new([1], 0.0, to_the_end=False)] == ["one"]
    with path.open("ab") as file:
        file.write(b"o\nthree")
    assert [line.text for line in reader.read_new([1], 1.0, to_the_end=False)] == ["two"]
    assert [line.text for line in reader.read_new([1], 2.0, to_the_end=True)] == ["three"]


def test_after_a_rename_late_writers_are_waited_for(tmp_path: Path) -> None:
    path = write_files(tmp_path, b"one\n")
    reader = LineReader(path, START)

    def read_at(now: float) -> list[str]:
        return [line.text for line in reader.read_new(numbers_of(path), now, to_the_end=False)]

    with path.open("ab") as late:
        assert read_at(0.0) == ["one"]
        path.rename(rotated_file(path, 1))
        path.write_bytes(b"three\n")
        assert read_at(1.0) == []
        late.write(b"two\n")
    assert read_at(2.0) == ["two"]
    assert read_at(LINGER_S) == ["three"]


def test_a_reader_that_begins_in_an_old_file_waits_for_nobody(tmp_path: Path) -> None:
    path = write_files(tmp_path, b"one\n", b"two\n", b"three\n")
    assert read(path, to_the_end=False) == ["one", "two", "three"]


def test_files_that_are_gone_are_told(tmp_path: Path) -> None:
    path = write_files(tmp_path, b"one\n", b"two\n", b"three\n")
    rotated_file(path, 1).unlink()
    assert read(path) == ["[older lines were removed before they had been read]", "two", "three"]
    assert read(path, Position(9, 5)) == ["[older lines were removed before they had been read]", "two", "three"]


def test_a_log_that_was_emptied_is_read_from_its_start(tmp_path: Path) -> None:
    path = write_files(tmp_path, b"new\n")
    assert read(path, Position(1, 1_000)) == ["new"]


def test_what_is_renamed_between_listing_and_opening_is_still_found(tmp_path: Path) -> None:
    path = write_files(tmp_path, b"one\n")
    numbers = numbers_of(path)
    path.rename(rotated_file(path, 1))
    assert [line.text for line in LineReader(path, START).read_new(numbers, 0.0, to_the_end=True)] == ["one"]
    path.write_bytes(b"two\n")
    assert [line.text for line in LineReader(path, START).read_new(numbers, 0.0, to_the_end=True)] == ["one"]
    assert find_last_lines(path, numbers, 1) == Position(1, 0)
