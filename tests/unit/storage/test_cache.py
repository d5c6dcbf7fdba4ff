import errno
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xxhash

from orchestrator.core.errors import DataError
from orchestrator.storage.bytelocks import lock_bytes, reopen, try_lock_byte
from orchestrator.storage.cache import RUN_BLOCKS, WRONG_TRIES, NodeCache, find_runs, mark_blocks
from orchestrator.storage.shard import BLOCK_BYTES, Fetched

SIZE = 5 * BLOCK_BYTES // 2
DATA = np.random.default_rng(0).bytes(20 * BLOCK_BYTES)


class Source:
    """Bytes of a shard; remembers which ranges were read, and alters what is listed in `wrong`, once each."""

    def __init__(self, size=SIZE, wrong=()):
        self.data, self.read_ranges, self.wrong = DATA[:size], [], list(wrong)

    def read(self, begin, end):
        self.read_ranges.append((begin, end))
        data = bytearray(self.data[begin:end])
        if self.wrong and begin <= self.wrong[0] < end:
            data[self.wrong.pop(0) - begin] ^= 1
        return bytes(data)

    @property
    def blocks(self):
        return [
            xxhash.xxh3_128_hexdigest(self.data[at : at + BLOCK_BYTES]) for at in range(0, len(self.data), BLOCK_BYTES)
        ]


def make_cache(tmp_path, limit_bytes=2**40, let_go=lambda: None):
    return NodeCache(tmp_path / "cache", limit_bytes, let_go)


def open_shard(cache, source, url="s3://b/x.tar", blocks=()):
    return cache.open(url, f"{len(source.data)}-etag", blocks, source.read)


def ask(shard, *extents):
    return shard.need(np.array([begin for begin, _ in extents]), np.array([end for _, end in extents]))


def taken_bytes(tmp_path):
    return sum(file.stat().st_blocks * 512 for file in (tmp_path / "cache").iterdir())


def test_only_blocks_that_are_touched_are_fetched_and_neighbours_by_one_request(tmp_path):
    source = Source(7 * BLOCK_BYTES + 5)
    shard = open_shard(make_cache(tmp_path), source)
    fetched = ask(shard, (BLOCK_BYTES + 1, BLOCK_BYTES + 2), (2 * BLOCK_BYTES, 3 * BLOCK_BYTES), (9, 9))
    assert source.read_ranges == [(BLOCK_BYTES, 3 * BLOCK_BYTES)]
    assert fetched == Fetched(0, 2, 2 * BLOCK_BYTES)
    assert shard.data[BLOCK_BYTES : 3 * BLOCK_BYTES] == source.data[BLOCK_BYTES : 3 * BLOCK_BYTES]
    assert len(shard.data) == len(source.data)


def test_what_is_there_is_not_fetched_again_by_anybody(tmp_path):
    source = Source()
    assert open_shard(make_cache(tmp_path), source).need_all() == Fetched(0, 3, SIZE)
    source.read_ranges.clear()
    again = open_shard(make_cache(tmp_path), source)
    assert again.need_all() == Fetched(3, 0, 0)
    assert again.data[:] == source.data
    assert source.read_ranges == []


def test_another_stamp_or_url_is_another_shard(tmp_path):
    cache = make_cache(tmp_path)
    open_shard(cache, Source()).need_all()
    other = Source()
    assert cache.open("s3://b/x.tar", f"{SIZE}-other", (), other.read).need_all().misses == 3
    assert open_shard(cache, other, "s3://b/y.tar").need_all().misses == 3


def test_long_runs_are_cut_into_several_requests(tmp_path):
    source = Source(20 * BLOCK_BYTES)
    open_shard(make_cache(tmp_path), source).need_all()
    assert sorted(source.read_ranges) == [
        (0, 8 * BLOCK_BYTES),
        (8 * BLOCK_BYTES, 16 * BLOCK_BYTES),
        (16 * BLOCK_BYTES, 20 * BLOCK_BYTES),
    ]
    assert RUN_BLOCKS == 8


def test_empty_shard_needs_nothing(tmp_path):
    shard = open_shard(make_cache(tmp_path), Source(0))
    assert (bytes(shard.data), shard.need_all()) == (b"", Fetched())


def test_threads_that_want_the_same_blocks_fetch_each_once(tmp_path):
    source, cache = Source(20 * BLOCK_BYTES), make_cache(tmp_path)
    shards = [open_shard(cache, source) for _ in range(2)]
    wanted = [(0, 6), (3, 12), (5, 20), (0, 20), (11, 14), (0, 20)]
    with ThreadPoolExecutor(len(wanted)) as threads:
        jobs = [
            threads.submit(ask, shards[i % 2], (first * BLOCK_BYTES, stop * BLOCK_BYTES))
            for i, (first, stop) in enumerate(wanted)
        ]
        figures = [job.result(timeout=30) for job in jobs]
    assert sum(one.misses for one in figures) == 20
    assert sum(end - begin for begin, end in source.read_ranges) == 20 * BLOCK_BYTES
    assert [one.hits + one.misses for one in figures] == [stop - first for first, stop in wanted]
    assert shards[1].data[:] == source.data


def test_forgotten_bytes_are_fetched_again(tmp_path):
    source = Source(wrong=[BLOCK_BYTES + 7])
    shard = open_shard(make_cache(tmp_path), source)
    shard.need_all()
    assert shard.data[:] != source.data
    assert shard.forget(BLOCK_BYTES + 7, BLOCK_BYTES + 8)
    assert shard.need_all() == Fetched(2, 1, BLOCK_BYTES)
    assert shard.data[:] == source.data


def test_wrong_bytes_are_fetched_again_when_checksums_are_known(tmp_path):
    source = Source(wrong=[BLOCK_BYTES + 7, 5])
    shard = open_shard(make_cache(tmp_path), source, blocks=source.blocks)
    shard.need_all()
    assert shard.data[:] == source.data
    assert len(source.read_ranges) == 3


def test_bytes_that_stay_wrong_end_with_an_error_and_are_never_shown(tmp_path):
    source = Source(wrong=[7] * WRONG_TRIES)
    shard = open_shard(make_cache(tmp_path), source, blocks=source.blocks)
    with pytest.raises(DataError, match=r"s3://b/x\.tar.*block 0 .*3 times.*\n.*prepare"):
        shard.need_all()
    assert shard.data[:].count(0) == SIZE
    shard.need_all()  # the lock is free, and now they come right
    assert shard.data[:] == source.data


def test_limit_is_kept_by_removing_what_was_used_longest_ago(tmp_path):
    cache = make_cache(tmp_path, limit_bytes=4 * BLOCK_BYTES)
    source = Source(BLOCK_BYTES)
    for number in range(6):
        open_shard(cache, source, f"s3://b/{number}.tar").need_all()
        if number > 1:
            assert open_shard(cache, source, "s3://b/0.tar").need_all().hits == 1  # used all the time
        assert taken_bytes(tmp_path) <= 4 * BLOCK_BYTES + 5 * 4096
    assert open_shard(cache, source, "s3://b/1.tar").need_all().misses == 1
    assert open_shard(cache, source, "s3://b/5.tar").need_all().hits == 1


def test_files_in_use_stay_beyond_the_limit(tmp_path):
    cache = make_cache(tmp_path, limit_bytes=BLOCK_BYTES)
    opened = [open_shard(cache, Source(), f"s3://b/{number}.tar") for number in range(3)]
    for shard in opened:
        shard.need_all()
    assert all(shard.need_all() == Fetched(3, 0, 0) and shard.data[:] == DATA[:SIZE] for shard in opened)
    assert len(list((tmp_path / "cache").iterdir())) == 3
    data = opened[0].data
    del opened, shard
    open_shard(cache, Source(), "s3://b/3.tar").need_all()
    assert data[:] == DATA[:SIZE]  # its map alone keeps it
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_what_is_open_but_idle_is_let_go_of_when_room_is_needed(tmp_path):
    idle = []
    cache = make_cache(tmp_path, limit_bytes=2 * BLOCK_BYTES, let_go=idle.clear)
    for number in range(4):
        idle.append(open_shard(cache, Source(BLOCK_BYTES), f"s3://b/{number}.tar"))
        idle[-1].need_all()
    assert taken_bytes(tmp_path) <= 2 * BLOCK_BYTES + 4 * 4096


def test_a_full_disk_is_tried_again_without_unused_files_and_then_named(tmp_path, monkeypatch):
    cache = make_cache(tmp_path)
    open_shard(cache, Source(), "s3://b/unused.tar").need_all()
    shard, write = open_shard(cache, Source()), os.pwrite

    def write_on_full_disk(descriptor, data, offset):
        if len(list((tmp_path / "cache").iterdir())) > free_from:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", write_on_full_disk)
    free_from = 1
    shard.need_all()
    assert shard.data[:] == DATA[:SIZE]
    assert len(list((tmp_path / "cache").iterdir())) == 1
    free_from = 0
    shard = open_shard(cache, Source(), "s3://b/other.tar")
    with pytest.raises(DataError, match=r"data\.cache\.folder=.*No space left.*\n.*data\.cache\.limit_bytes"):
        shard.need_all()


def test_unusable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path)
    for folder in ("file", "file/below", "open", "link"):
        with pytest.raises(DataError, match=rf"data\.cache\.folder={tmp_path}/{folder}"):
            NodeCache(tmp_path / folder, 1, lambda: None)


def test_folder_is_the_owners_alone(tmp_path):
    open_shard(make_cache(tmp_path), Source()).need_all()
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in (tmp_path / "cache").iterdir())


def test_a_killed_holder_leaves_no_lock(tmp_path):
    path = tmp_path / "file"
    path.touch()
    code = (
        "import os, sys, time; from orchestrator.storage.bytelocks import lock_bytes\n"
        "lock_bytes(os.open(sys.argv[1], os.O_RDWR), 0, 10); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        descriptor = os.open(path, os.O_RDWR)
        assert not try_lock_byte(descriptor, 9)
        assert try_lock_byte(descriptor, 10)
        waiter = threading.Thread(target=lock_bytes, args=(descriptor, 5, 5))
        waiter.start()
        holder.send_signal(signal.SIGKILL)
        waiter.join(timeout=10)
    assert not waiter.is_alive()
    os.close(descriptor)


def test_openings_of_one_file_keep_each_other_out_within_a_process(tmp_path):
    path = tmp_path / "file"
    path.touch()
    first = os.open(path, os.O_RDWR)
    path.unlink()  # what has no name any more can be opened again all the same
    second = reopen(first)
    lock_bytes(first, 3, 2)
    assert [try_lock_byte(second, place) for place in (2, 3, 4, 5)] == [True, False, False, True]
    os.close(first)
    assert try_lock_byte(second, 3)
    os.close(second)


def test_blocks_and_runs_of_extents():
    begins, ends = np.array([0, 5 * BLOCK_BYTES - 1, 7, 30 * BLOCK_BYTES]), np.array([1, 5 * BLOCK_BYTES + 1, 7, 0])
    ends[3] = 30 * BLOCK_BYTES
    blocks = mark_blocks(begins, ends, 40)
    assert np.flatnonzero(blocks).tolist() == [0, 4, 5]
    assert find_runs(blocks) == [(0, 1), (4, 6)]
    assert find_runs(np.ones(19, np.bool_)) == [(0, 8), (8, 16), (16, 19)]
    assert find_runs(np.zeros(0, np.bool_)) == []


def test_looking_whether_blocks_are_there_is_quick(tmp_path):
    shard = open_shard(make_cache(tmp_path), Source(20 * BLOCK_BYTES))
    shard.need_all()
    begins = np.random.default_rng(1).integers(0, 20 * BLOCK_BYTES - 7_000, 4096)
    began = time.perf_counter()
    assert shard.need(begins, begins + 7_000).misses == 0
    assert time.perf_counter() - began < 0.05


def test_files_are_named_by_their_boot(tmp_path):
    cache = make_cache(tmp_path)
    open_shard(cache, Source()).need_all()
    (name,) = [file.name for file in (tmp_path / "cache").iterdir()]
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    parts = ("1", str(BLOCK_BYTES), boot, "s3://b/x.tar", f"{SIZE}-etag")
    assert name == xxhash.xxh3_128_hexdigest("\0".join(parts).encode()) + ".blocks"
