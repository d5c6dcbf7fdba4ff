"""A range is read with the chunks that it lies in, and nothing of them is used before it has been checked."""

import random
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.checkpoint.chunks import CheckedFile, RecentChunks
from orchestrator.checkpoint.layout import CHUNK_BYTES, RankRecord
from orchestrator.checkpoint.slot import hash_chunks
from orchestrator.core.errors import CheckpointDamaged

DATA = random.Random(0).randbytes(2 * CHUNK_BYTES + 1000)
RECORD = RankRecord(file="x", size_bytes=len(DATA), chunks=tuple(hash_chunks(memoryview(DATA))))


class InMemory:
    """A StoredFile that writes down what is read of it."""

    def __init__(self, data: bytes = DATA) -> None:
        self.data, self.size_bytes = data, len(data)
        self.reads: list[tuple[int, int]] = []
        self.targets: list[memoryview] = []
        self.closed = False

    def read_into(self, into: memoryview, begin: int) -> None:
        self.reads.append((begin // CHUNK_BYTES, len(into)))
        self.targets.append(into)
        into[:] = self.data[begin : begin + len(into)]

    def close(self) -> None:
        self.closed = True


def checked(file: InMemory, record: RankRecord = RECORD) -> CheckedFile:
    return CheckedFile(lambda: file, record, "x", RecentChunks(2))


def read(opened: CheckedFile, begin: int, end: int) -> bytes:
    into = bytearray(end - begin)
    opened.read_into(memoryview(into), begin)
    return bytes(into)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, len(DATA)), min_size=2, max_size=6))
def test_any_range_is_what_was_written(bounds: list[int]) -> None:
    opened = checked(InMemory())
    for begin, end in pairwise(sorted(bounds)):
        assert read(opened, begin, end) == DATA[begin:end]


def test_only_the_chunks_of_the_range_are_read_and_neighbours_share_one() -> None:
    file = InMemory()
    opened = checked(file)
    for begin in range(CHUNK_BYTES + 10, CHUNK_BYTES + 1000, 99):
        assert read(opened, begin, begin + 99) == DATA[begin : begin + 99]
    assert file.reads == [(1, CHUNK_BYTES)]


def test_a_whole_chunk_goes_straight_to_where_it_is_wanted() -> None:
    file, into = InMemory(), bytearray(CHUNK_BYTES)
    checked(file).read_into(memoryview(into), CHUNK_BYTES)
    assert [target.obj for target in file.targets] == [into]
    assert file.targets[0].obj is into


def test_damage_is_noticed_where_it_is_needed_and_only_there() -> None:
    file = InMemory(DATA[: CHUNK_BYTES + 5] + bytes([DATA[CHUNK_BYTES + 5] ^ 4]) + DATA[CHUNK_BYTES + 6 :])
    opened = checked(file)
    assert read(opened, 0, CHUNK_BYTES) == DATA[:CHUNK_BYTES]
    assert read(opened, 2 * CHUNK_BYTES, len(DATA)) == DATA[2 * CHUNK_BYTES :]
    for begin, end in ((CHUNK_BYTES + 500, CHUNK_BYTES + 600), (CHUNK_BYTES, 2 * CHUNK_BYTES), (0, len(DATA))):
        with pytest.raises(CheckpointDamaged, match=f"x: bytes {CHUNK_BYTES} to {2 * CHUNK_BYTES} differ"):
            read(opened, begin, end)
    with pytest.raises(CheckpointDamaged, match="differ"):
        opened.check()


def test_a_file_of_another_size_is_closed_and_refused() -> None:
    file = InMemory(DATA[:-1])
    with pytest.raises(CheckpointDamaged, match=f"has {len(DATA) - 1} bytes, {len(DATA)} were written"):
        read(checked(file), 0, 1)
    assert file.closed


def test_a_file_that_ends_while_it_is_read_is_damaged() -> None:
    class Shrinking(InMemory):
        def read_into(self, into: memoryview, begin: int) -> None:
            raise EOFError

    with pytest.raises(CheckpointDamaged, match="ends before byte"):
        read(checked(Shrinking()), 0, 1)


def test_many_threads_may_read_at_once() -> None:
    opened, chance = checked(InMemory()), random.Random(1)
    ranges = [sorted(chance.choices(range(len(DATA)), k=2)) for _ in range(40)]
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(lambda bounds: read(opened, *bounds) == DATA[slice(*bounds)], ranges))
