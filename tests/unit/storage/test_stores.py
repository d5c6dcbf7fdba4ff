import json
import os
import pickle

import numpy as np
import pytest
import xxhash

from orchestrator.config.data import DataSection
from orchestrator.core.errors import DataError
from orchestrator.storage.stores import BLOCK_BYTES, OPEN_SHARDS, Fetched, Stores, StoreSettings, open_stores
from tests.fakes.node_reader import await_readers, start_readers
from tests.fakes.s3_server import S3Server
from tests.fakes.shards import write_texts

DATA = np.random.default_rng(0).bytes(9 * BLOCK_BYTES + 7)


@pytest.fixture
def server():
    with S3Server() as server:
        server.objects["data/a.tar"] = DATA
        yield server


@pytest.fixture
def settings(server, tmp_path):
    return {"options": json.dumps(server.options), "cache_folder": str(tmp_path / "cache"), "timeout_s": 10.0}


def test_settings_come_from_the_config_and_travel(tmp_path):
    section = DataSection.model_validate(
        {
            "train": [{"path": "s3://bucket/data"}],
            "store": {"options": {"s3": {"anon": True}}, "timeout_s": 5, "retry_for_s": 7},
            "cache": {"folder": "~/cache", "limit_bytes": 9},
        }
    )
    settings = StoreSettings.of(section)
    assert (json.loads(settings.options), settings.timeout_s) == ({"s3": {"anon": True}}, 5)
    assert (settings.retry_for_s, settings.cache_bytes) == (7, 9)
    assert settings.cache.is_absolute()
    assert open_stores(pickle.loads(pickle.dumps(settings))) is open_stores(settings)


def test_users_of_a_node_have_a_cache_each():
    assert StoreSettings().cache.name.endswith(f"-{os.geteuid()}")


def test_local_shards_are_mapped_where_they_are(tmp_path):
    path = write_texts(tmp_path / "data" / "a.tar", {"k": "text"})
    stores = Stores(StoreSettings(cache_folder=str(tmp_path / "cache")))
    (listed,) = stores.list(str(tmp_path / "data"))
    opened = stores.open(listed.url, listed.stamp)
    assert (opened.data[:], opened.need_all(), opened.forget(0, 1)) == (path.read_bytes(), Fetched(), False)
    assert not stores.is_remote(listed.url)
    assert not (tmp_path / "cache").exists()
    assert not stores.has_changed(listed.url, listed.stamp)
    os.utime(path, (1, 1))
    assert stores.has_changed(listed.url, listed.stamp)
    with pytest.raises(DataError, match=rf"{listed.url}.*changed since it was indexed"):
        stores.open(listed.url, listed.stamp)


def test_remote_shards_look_like_local_ones(server, settings):
    stores = Stores(StoreSettings(**settings))
    (listed,) = stores.list("s3://bucket/data")
    assert stores.is_remote(listed.url)
    assert stores.open(listed.url, listed.stamp).need_all() == Fetched(0, 10, len(DATA))
    opened = Stores(StoreSettings(**settings)).open(listed.url)
    assert opened.stamp == listed.stamp
    assert opened.need_all() == Fetched(10, 0, 0)
    assert opened.data[:] == DATA
    assert server.fetched("data/a.tar") == [(0, 8 * BLOCK_BYTES), (8 * BLOCK_BYTES, len(DATA))]


def test_opening_and_looking_after_changes_ask_for_nothing(server, settings):
    stores = Stores(StoreSettings(**settings))
    stores.open("s3://bucket/data/a.tar", f"{len(DATA)}-etag")
    assert not stores.has_changed("s3://bucket/data/a.tar", f"{len(DATA)}-etag")
    assert server.asked == []


def test_a_shard_is_kept_open_until_many_others_came(server, settings):
    stores = Stores(StoreSettings(**settings))
    opened = stores.open("s3://bucket/data/a.tar", "5-etag")
    assert stores.open("s3://bucket/data/a.tar", "5-etag") is opened
    assert stores.open("s3://bucket/data/a.tar", "5-etag", ["checksum"]) is not opened  # which it would not check
    for number in range(OPEN_SHARDS):
        stores.open(f"s3://bucket/data/{number}.tar", "5-etag")
    assert stores.open("s3://bucket/data/a.tar", "5-etag") is not opened


def test_forked_processes_of_a_node_fetch_each_byte_once(server, settings):
    server.plan("500", "cut", "reset", "slow", "503")
    (listed,) = Stores(StoreSettings(**settings)).list("s3://bucket/data")
    with start_readers(settings, listed.url, listed.stamp, 4) as readers:
        told = await_readers(readers)
    assert [checksum for checksum, _ in told] == [xxhash.xxh3_128_hexdigest(DATA)] * 4
    assert sum(misses for _, misses in told) == 10
    ranges = server.fetched("data/a.tar")
    assert sum(end - begin for begin, end in ranges) == len(DATA)
    assert (server.count("LIST"), server.count("HEAD")) == (1, 0)


def test_a_child_has_stores_of_its_own(settings):
    mine = open_stores(StoreSettings(**settings))
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, b"own" if open_stores(StoreSettings(**settings)) is not mine else b"same")
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reading, 10) == b"own"
    os.close(reading)
    os.close(writing)


def test_figures_add_up():
    assert sum([Fetched(1, 2, 3), Fetched(10, 20, 30)], Fetched()) == Fetched(11, 22, 33)
