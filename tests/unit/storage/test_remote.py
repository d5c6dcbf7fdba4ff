import json
import logging
import os
import pickle

import pytest

from orchestrator.core.errors import DataError, StoreDown
from orchestrator.core.words import ExitCode
from orchestrator.storage.remote import PACKAGES
from orchestrator.storage.stores import BLOCK_BYTES, Stores, StoreSettings
from tests.fakes.clock import FakeClock
from tests.fakes.s3_server import S3Server

SIZE = BLOCK_BYTES // 2 + 3


@pytest.fixture
def server():
    with S3Server() as server:
        for name in ("b.tar", "a.tar", "deep/er/c.tar"):
            server.objects[f"data/{name}"] = os.urandom(SIZE)
        server.objects["data/notes.md"] = server.objects["data/.half.tar"] = b"no shard"
        server.objects["database/x.tar"] = b"of another folder"
        yield server


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def stores(server, clock, tmp_path):
    return make_stores(server, clock, tmp_path)


def make_stores(server, clock, tmp_path, **changes):
    settings = {"options": json.dumps(server.options), "cache_folder": str(tmp_path / "cache"), "timeout_s": 10}
    return Stores(StoreSettings(**settings | changes), clock)


def read(stores, url, stamp=None):
    opened = stores.open(url, stamp)
    opened.need_all()
    return bytes(opened.data)


def test_folder_glob_and_single_shard_are_listed_as_local_ones_are(server, stores):
    folder = stores.list("s3://bucket/data")
    assert [one.name for one in folder] == ["a.tar", "b.tar", "deep/er/c.tar"]
    assert [one.url for one in folder] == [f"s3://bucket/data/{one.name}" for one in folder]
    assert {one.size_bytes for one in folder} == {SIZE}
    assert stores.list("s3://bucket/data/") == folder == stores.list("s3://bucket/data/**/*.tar")
    assert [one.name for one in stores.list("s3://bucket/data/[ab].tar")] == ["a.tar", "b.tar"]
    assert stores.list("s3://bucket/data/a.tar") == folder[:1]


def test_a_folder_is_listed_once_and_no_shard_is_asked_for(server, stores):
    server.page_size = 2
    assert len(stores.list("s3://bucket/data")) == 3
    assert (server.count("LIST"), len(server.asked)) == (3, 3)  # five objects, two a page


def test_stamps_of_listing_and_shard_agree_and_change_with_the_bytes(server, stores):
    listed = stores.list("s3://bucket/data")[0]
    assert listed.stamp == stores.stamp(listed.url)
    server.objects["data/a.tar"] = os.urandom(SIZE)
    assert stores.stamp(listed.url) != listed.stamp


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("pipe:cat x.tar", "pipe: runs commands"),
        ("ftp://host/x.tar", r"ftp:// is not read\n.*s3://.*https://.*hf://"),
        ("simplecache::s3://bucket/data", "is not read"),
        ("s3://bucket/shard-{000..009}.tar", r"a glob like shard-\*\.tar"),
        ("https://host/x.tar?signed=1", "has a query"),
        ("s3://bucket/none", "holds no tar shards"),
        ("s3://bucket/none.tar", "is not there"),
        ("s3://bucket/database", "compressed.*\n.*longhaul import"),
    ],
)
def test_unusable_path_names_key_path_and_remedy(server, stores, path, says):
    server.objects["database/x.tar.gz"] = b"x"
    with pytest.raises(DataError, match=says) as caught:
        stores.list(path, "data.train[3].path")
    assert f"data.train[3].path={path}" in str(caught.value)
    assert caught.value.remedy


def test_missing_package_is_named_as_pip_calls_it(stores, monkeypatch):
    monkeypatch.setitem(PACKAGES, "gs", ("no_such_module", "gcsfs"))
    with pytest.raises(DataError, match="pip install 'gcsfs'"):
        stores.list("gs://bucket/data")


@pytest.mark.parametrize("fault", ["500", "503", "reset", "cut", "slow", "stall"])
def test_bytes_are_the_same_through_every_fault(server, clock, tmp_path, fault):
    stores = make_stores(server, clock, tmp_path, timeout_s=0.5 if fault == "stall" else 30.0)
    listed = stores.list("s3://bucket/data")[0]
    server.plan(fault, fault)
    assert read(stores, listed.url, listed.stamp) == server.objects["data/a.tar"]
    if fault != "stall":  # on a busy machine other requests may take as long
        assert server.count("GET") == (1 if fault == "slow" else 3)


def test_a_listing_that_fails_is_tried_again(server, stores):
    server.page_size = 2
    server.plan("500", "cut", "reset", kind="LIST")
    assert len(stores.list("s3://bucket/data")) == 3


@pytest.mark.parametrize("fault", ["503", "reset"])
def test_a_store_that_stays_down_ends_the_run_resumably(server, clock, tmp_path, fault):
    stores = make_stores(server, clock, tmp_path, retry_for_s=20)
    listed = stores.list("s3://bucket/data")[0]
    server.down, began = fault, clock.now()
    with pytest.raises(StoreDown, match=r"tries in 20 s; the last one: \w+") as caught:
        read(stores, listed.url, listed.stamp)
    assert clock.now() - began == pytest.approx(20)
    assert all(part in str(caught.value) for part in ("s3://bucket", server.endpoint, listed.url))
    assert pickle.loads(pickle.dumps(caught.value)).exit_code is ExitCode.PREEMPTED


def test_pauses_grow_and_differ(server, tmp_path):
    class Recorder(FakeClock):
        def sleep(self, seconds):
            pauses.append(seconds)
            super().sleep(seconds)

    pauses = []
    stores = make_stores(server, Recorder(), tmp_path, retry_for_s=60)
    server.down = "500"
    with pytest.raises(StoreDown):
        stores.list("s3://bucket/data")
    assert len(set(pauses)) == len(pauses)
    assert max(pauses[:3]) <= 2 < max(pauses) <= 30


@pytest.mark.parametrize(("fault", "says"), [("403", "refuses.*AccessDenied"), (None, "is not there")])
def test_what_trying_again_cannot_mend_fails_at_once(server, clock, stores, fault, says):
    listed = stores.list("s3://bucket/data")[0]
    if fault is None:
        del server.objects["data/a.tar"]
    server.down, began = fault, clock.now()
    with pytest.raises(DataError, match=says) as caught:
        read(stores, listed.url, listed.stamp)
    assert listed.url in str(caught.value)
    assert (server.count("GET"), clock.now()) == (1, began)


def test_a_shard_that_changed_since_it_was_listed_is_not_read(server, stores):
    listed = stores.list("s3://bucket/data")[0]
    server.objects["data/a.tar"] = os.urandom(SIZE)
    with pytest.raises(DataError, match="changed since it was indexed"):
        read(stores, listed.url, listed.stamp)
    assert server.count("GET") == 1
    assert server.count("HEAD") == 0


def test_the_log_tells_once_that_a_store_fails_and_that_it_is_back(server, stores, caplog):
    caplog.set_level(logging.INFO)
    listed = stores.list("s3://bucket/data")
    server.plan("500", "503", "reset")
    for one in listed:
        read(stores, one.url, one.stamp)
    told = [record.getMessage() for record in caplog.records if record.name.startswith("orchestrator")]
    assert len(told) == 2
    assert "s3://bucket" in told[0]
    assert "fails" in told[0]
    assert "is back after" in told[1]


def test_http_reads_index_pages_and_single_shards(server, stores):
    folder = f"{server.endpoint}/bucket/data"
    server.objects = {"data/a.tar": os.urandom(SIZE), "data/b.tar": os.urandom(SIZE)}
    listed = stores.list(folder)
    assert [one.name for one in listed] == ["a.tar", "b.tar"]
    assert stores.list(f"{folder}/b.tar") == listed[1:]
    for one in listed:
        assert read(stores, one.url, one.stamp) == server.objects[f"data/{one.name}"]
    server.objects["data/a.tar"] = os.urandom(SIZE)
    stores.open(listed[0].url, listed[0].stamp).forget(0, SIZE)
    with pytest.raises(DataError, match="changed since it was indexed"):
        read(stores, listed[0].url, listed[0].stamp)


def test_a_server_without_etags_is_asked_again_after_each_read(server, stores):
    server.etags = False
    url = f"{server.endpoint}/bucket/data/a.tar"
    stamp = stores.stamp(url)
    assert read(stores, url, stamp) == server.objects["data/a.tar"]
    server.objects["data/a.tar"] = os.urandom(SIZE + 1)
    stores.open(url, stamp).forget(0, SIZE)
    with pytest.raises(DataError, match="changed since it was indexed"):
        read(stores, url, stamp)
