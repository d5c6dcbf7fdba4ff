"""Processes that download a shard together are killed at any moment; those that come after see the right bytes. And a
whole run out of a store that dies amid it."""

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import xxhash
import yaml

from launch.loading import load_checked
from orchestrator.core.errors import DataError
from orchestrator.prepare.run import prepare
from orchestrator.storage.cache import NodeCache
from orchestrator.storage.stores import BLOCK_BYTES, Stores, StoreSettings
from tests.fakes.node_reader import await_readers, start_readers
from tests.fakes.s3_server import S3Server
from tests.integration.conftest import PICTURE_SHARDS, PICTURE_STEPS, Bench
from tests.integration.test_faults import wait_until

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


def write_overlay(bench: Bench, server: S3Server, cache: str) -> str:
    """The pictures of the bench in a store, with a work place of their own."""
    data = {
        "train": [{"path": server.url("pictures")}],
        "work": "work-of-the-store",
        "store": {"options": server.options, "timeout_s": 10.0, "retry_for_s": 1.0},
        "cache": {"folder": str(bench.folder / cache)},
    }
    path = bench.folder / f"{cache}.yaml"
    path.write_text(yaml.safe_dump({"data": data}))
    return str(path)


def test_a_store_that_dies_amid_a_run_stops_it_and_nothing_is_lost_or_fetched_twice(
    picture_bench: Bench, unbroken_pictures: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks on one node, which is not the one that prepared: every shard is downloaded while training."""
    bench = picture_bench
    monkeypatch.chdir(bench.folder)
    with S3Server() as server:
        for path in (bench.folder / "pictures").glob("*.tar"):
            server.objects[f"pictures/{path.name}"] = path.read_bytes()
        prepare(load_checked(bench.config, [Path(write_overlay(bench, server, "another-node"))], []))
        before = len(server.asked)

        def count_downloads() -> Counter[str]:
            return Counter(one.key for one in server.asked[before:] if one.kind == "GET" and one.status == 206)

        command = bench.start(
            "run", str(bench.config), "-o", write_overlay(bench, server, "this-node"), "name=out-of-store"
        )
        wait_until(lambda: len(count_downloads()) >= PICTURE_SHARDS // 3)
        server.down = "503"
        assert command.wait(timeout=180) == 75
        [event] = bench.events("out-of-store", "stopped")
        assert event["exit_code"] == 75
        assert server.endpoint in event["reason"]
        assert 0 < event["step"] < PICTURE_STEPS / 2
        assert bench.events("out-of-store", "checkpoint")[-1]["step"] == event["step"]
        assert len(count_downloads()) < PICTURE_SHARDS

        server.down = None
        resumed = bench.longhaul("resume", "out-of-store")
        assert resumed.returncode == 0, resumed.stdout + resumed.stderr
        assert sorted(count_downloads().values()) == [1] * PICTURE_SHARDS
    assert bench.events("out-of-store", "started")[-1]["checkpoint"] == f"step-{event['step']:08d}-g0001"
    assert bench.ledger("out-of-store") == bench.ledger(unbroken_pictures)
    assert bench.losses("out-of-store") == bench.losses(unbroken_pictures)
    assert bench.longhaul("verify", "out-of-store").returncode == 0
