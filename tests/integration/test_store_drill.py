"""Processes that download a shard together are killed at any moment; those that come after see the right bytes."""

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import xxhash

from orchestrator.core.errors import DataError
from orchestrator.storage.cache import NodeCache
from orchestrator.storage.stores import BLOCK_BYTES, Stores, StoreSettings
from tests.fakes.node_reader import await_readers, start_readers
from tests.fakes.s3_server import S3Server

pytestmark = pytest.mark.cluster
KILLS = 20
DATA = np.random.default_rng(0).bytes(24 * BLOCK_BYTES + 7)


def test_downloads_killed_at_random_moments_leave_neither_locks_nor_wrong_bytes(tmp_path):
    settings = {"cache_folder": str(tmp_path / "cache"), "timeout_s": 10.0}
    moments, in_memory = random.Random(4), set(Path("/dev/shm").iterdir())
    with S3Server() as server:
        settings["options"] = json.dumps(server.options)
        server.objects["data/a.tar"] = DATA
        (listed,) = Stores(StoreSettings(**settings)).list("s3://bucket/data")
        server.down = "slow"
        killed = 0
        for _ in range(KILLS):
            with start_readers(settings, listed.url, listed.stamp, 3) as readers:
                assert readers.stdout.readline() == "forking\n"
                time.sleep(moments.uniform(0.1, 1.2))  # amid connecting, fetching, writing or marking
                killed += readers.poll() is None
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(readers.pid, signal.SIGKILL)
            if moments.random() < 0.3:  # begin anew, so that late kills find something to do
                for file in Path(settings["cache_folder"]).glob("*"):
                    file.unlink()
        server.down = None
        with start_readers(settings, listed.url, listed.stamp, 4) as readers:
            told = await_readers(readers)
    assert [checksum for checksum, _ in told] == [xxhash.xxh3_128_hexdigest(DATA)] * 4
    assert killed >= KILLS // 2
    assert set(Path("/dev/shm").iterdir()) <= in_memory


def test_a_disk_that_is_full_is_named_and_right_bytes_stay(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=9m", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        cache = NodeCache(folder / "cache", 2**40, lambda: None)
        size = 3 * BLOCK_BYTES
        first = cache.open("s3://b/0.tar", f"{size}-e", (), lambda begin, end: DATA[begin:end])
        first.need_all()
        second = cache.open("s3://b/1.tar", f"{size}-e", (), lambda begin, end: DATA[begin:end])
        with pytest.raises(DataError, match=r"data\.cache\.folder=.*No space left"):
            second.need_all()
        assert first.data[:] == DATA[:size]
        del first
        second.need_all()
        assert second.data[:] == DATA[:size]
        del second
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_small_limit_under_many_readers_shows_no_wrong_byte(tmp_path):
    """Files come and go all the time while three processes read every shard."""
    settings = {"cache_folder": str(tmp_path / "cache"), "timeout_s": 10.0, "cache_bytes": 3 * BLOCK_BYTES}
    with S3Server() as server, contextlib.ExitStack() as stack:
        settings["options"] = json.dumps(server.options)
        for number in range(6):
            server.objects[f"data/{number}.tar"] = DATA[number : number + 3 * BLOCK_BYTES]
        listed = Stores(StoreSettings(**settings)).list("s3://bucket/data")
        readers = [stack.enter_context(start_readers(settings, one.url, one.stamp, 3)) for one in listed]
        for number, reader in enumerate(readers):
            right = xxhash.xxh3_128_hexdigest(server.objects[f"data/{number}.tar"])
            assert [checksum for checksum, _ in await_readers(reader)] == [right] * 3
