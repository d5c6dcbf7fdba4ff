"""Which shards a reader of samples keeps open, where there is room for three."""

import threading

import numpy as np
import pytest

from orchestrator.data.feeding import samples
from orchestrator.data.feeding.samples import SampleReader
from orchestrator.prepare.run import prepare
from tests.fakes.arrays import array_config, write_arrays
from tests.fakes.shards import LOCAL

FIELDS = {"values": ["npy"], "label": ["cls"]}
ROOM_FOR_THREE = int(3.5 * samples.MAP_BYTES)


class CountingStores:
    """Those of this machine. The first to open a shard wait for each other, as many as `at_once`."""

    def __init__(self, at_once: int = 1) -> None:
        self.opened: list[str] = []
        self._first = threading.Barrier(at_once)
        self._at_once = at_once

    def open(self, url, stamp=None, blocks=()):
        self.opened.append(url)
        if len(self.opened) <= self._at_once:
            self._first.wait(timeout=30)
        return LOCAL.open(url, stamp)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    root = tmp_path_factory.mktemp("arrays")
    write_arrays(root / "data", 5)
    return prepare(array_config(root))


@pytest.fixture
def make_reader(manifest, monkeypatch):
    monkeypatch.setattr(samples, "OPEN_BYTES", ROOM_FOR_THREE)
    return lambda stores: SampleReader(manifest, "train", FIELDS, stores)


def read_shards(reader, *ordinals):
    for ordinal in ordinals:
        reader.read(np.array([ordinal]), np.array([0]))


def test_the_shards_that_were_used_last_stay_open(make_reader):
    stores = CountingStores()
    reader = make_reader(stores)
    read_shards(reader, 0, 1, 2, 0, 3)
    assert len(stores.opened) == 4
    read_shards(reader, 0, 2, 3)
    assert len(stores.opened) == 4
    read_shards(reader, 1)
    assert len(stores.opened) == 5


def test_a_shard_that_two_threads_open_at_once_takes_the_room_of_one(make_reader):
    stores = CountingStores(at_once=2)
    reader = make_reader(stores)
    threads = [threading.Thread(target=read_shards, args=(reader, 0)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores.opened) == 2
    read_shards(reader, 1, 2, 0)
    assert len(stores.opened) == 4
