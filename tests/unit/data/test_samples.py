import os
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest

from orchestrator.core.errors import DataError
from orchestrator.data.feeding import samples
from orchestrator.data.feeding.samples import SampleReader
from orchestrator.data.ordering.ledger import sum_bytes
from orchestrator.prepare.run import prepare
from orchestrator.storage.shard import Fetched
from tests.fakes.arrays import array_config, write_arrays
from tests.fakes.shards import LOCAL, write_tar

FIELDS = {"values": ["npy", "bin"], "label": ["cls"]}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A manifest of five shards of six samples, a few of them kept for validation."""
    root = tmp_path_factory.mktemp("arrays")
    write_arrays(root / "data", 5)
    return prepare(array_config(root, {"split": {"validation": 0.2}}))


def open_reader(manifest, split="train", fields=FIELDS, stores=LOCAL):
    return SampleReader(manifest, split, fields, stores)


def kept_samples(manifest, split="train"):
    """(ordinals, places) of all that is kept."""
    pairs = [(o, p) for o in range(manifest.num_shards) for p in manifest.places(o, split).tolist()]
    return np.array(pairs, np.int64).T


def read_members(manifest, ordinal, place):
    """The members of a sample by suffix, as the standard library finds them."""
    key = manifest.keys(ordinal)[place]
    with tarfile.open(manifest.shard(ordinal).url) as tar:
        return {name.rpartition(".")[2]: tar.extractfile(name).read() for name in tar.getnames() if key in name}


@pytest.mark.parametrize("split", ["train", "validation"])
def test_every_kept_sample_is_its_members_in_whatever_order_it_is_asked_for(prepared, split):
    ordinal, place = kept_samples(prepared, split)
    shuffled = np.random.default_rng(0).permutation(ordinal.size)
    raw = open_reader(prepared, split).read(ordinal[shuffled], place[shuffled])
    assert ordinal.size > 2
    size = 0
    for n, (o, p) in enumerate(zip(ordinal[shuffled].tolist(), place[shuffled].tolist(), strict=True)):
        members = read_members(prepared, o, p)
        found = {suffixes[n]: bytes(views[n]) for suffixes, views in zip(raw.suffixes, raw.views, strict=True)}
        assert found == members
        size += sum(map(len, members.values()))
    assert raw.read_bytes == size


def test_checksums_are_the_manifests_and_of_one_field_the_members_own(prepared):
    ordinal, place = kept_samples(prepared)
    raw = open_reader(prepared).read(ordinal, place)
    expected = [prepared.checksums(o, "train") for o in range(prepared.num_shards)]
    assert np.array_equal(raw.checksums, np.concatenate(expected))


def test_the_first_suffix_that_a_sample_has_is_read(tmp_path):
    members = [("a.jpg", b"a jpeg"), ("b.jpg", b"a jpeg, too"), ("b.png", b"a png")]
    write_tar(tmp_path / "data" / "0.tar", members)
    manifest = prepare(array_config(tmp_path, {"fields": {"image": {"members": ["png", "jpg"]}}}))
    raw = open_reader(manifest, fields={"image": ["png", "jpg"]}).read(np.zeros(2, np.int64), np.arange(2))
    assert raw.suffixes == [["jpg", "png"]]
    assert list(map(bytes, raw.views[0])) == [b"a jpeg", b"a png"]
    as_numbers = [int.from_bytes(sum_bytes(data)) for data in (b"a jpeg", b"a png")]
    assert [int(high) << 64 | int(low) for high, low in raw.checksums] == as_numbers


def test_nothing_to_read_is_no_error(prepared):
    raw = open_reader(prepared).read(np.empty(0, np.int64), np.empty(0, np.int64))
    assert raw.views == [[], []]
    assert (raw.read_bytes, raw.checksums.shape) == (0, (0, 2))


def test_a_sample_that_is_not_kept_or_is_not_there_is_refused(prepared):
    ordinal, places = (column[:1] for column in kept_samples(prepared, "validation"))
    for place in (places, np.array([10_000])):
        with pytest.raises(DataError, match=rf"sample {place[0]} is not kept in split 'train'"):
            open_reader(prepared).read(ordinal, place)


def flip_byte(manifest, ordinal, place, suffix):
    """One wrong bit in a member, with nothing else of the shard changed, not even its time."""
    url = Path(manifest.shard(ordinal).url)
    stat = url.stat()
    with tarfile.open(url) as tar:
        at = tar.getmember(f"{manifest.keys(ordinal)[place]}.{suffix}").offset_data
    data = bytearray(url.read_bytes())
    data[at] ^= 1
    url.write_bytes(data)
    os.utime(url, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("suffix", ["npy", "cls"])
def test_one_wrong_bit_is_found_and_named(tmp_path, suffix):
    write_arrays(tmp_path / "data", 2)
    manifest = prepare(array_config(tmp_path))
    ordinal, place = kept_samples(manifest)
    flip_byte(manifest, 1, 3, suffix)
    key, url = manifest.keys(1)[3], manifest.shard(1).url
    others = ~((ordinal == 1) & (place == 3))
    open_reader(manifest).read(ordinal[others], place[others])
    with pytest.raises(DataError, match="put the shard back") as caught:
        open_reader(manifest).read(ordinal, place)
    assert f"sample {key} are not those that were prepared" in caught.value.message
    assert url in caught.value.where


class RottenShard:
    """A shard whose cached bytes are wrong until they are fetched again; `cure` is whether that helps."""

    def __init__(self, good, cure):
        self._good, self._cure = bytes(good.data), cure
        self.data, self.stamp = bytearray(self._good), good.stamp
        self.forgotten, self.asked = [], []

    def need(self, begins, ends):
        self.asked.append(list(zip(begins.tolist(), ends.tolist(), strict=True)))
        return Fetched(misses=1)

    def forget(self, begin, end):
        self.forgotten.append((begin, end))
        if self._cure:
            self.data[begin:end] = self._good[begin:end]
        return True


class RottenStores:
    def __init__(self, cure):
        self.cure, self.opened = cure, []

    def open(self, url, stamp=None, blocks=()):
        self.opened.append(RottenShard(LOCAL.open(url, stamp), self.cure))
        return self.opened[-1]


def spoil(reader, stores, ordinal, place):
    """Read once, then spoil the cached bytes of a sample's first member."""
    raw = reader.read(ordinal[:1], place[:1])
    (begin, end), _ = stores.opened[0].asked[0]
    assert bytes(stores.opened[0].data[begin:end]) == bytes(raw.views[0][0])
    stores.opened[0].data[begin] ^= 255
    stores.opened[0].asked.clear()
    return begin, end


def test_bytes_that_went_bad_on_this_node_are_fetched_again(prepared):
    stores = RottenStores(cure=True)
    reader = open_reader(prepared, stores=stores)
    ordinal, place = kept_samples(prepared)
    extent = spoil(reader, stores, ordinal, place)
    raw = reader.read(ordinal, place)
    assert np.array_equal(raw.checksums[0], prepared.checksums(0, "train")[0])
    assert bytes(raw.views[0][0]) == read_members(prepared, 0, int(place[0]))["npy"]
    assert extent in stores.opened[0].forgotten
    assert raw.fetched == Fetched(misses=len(stores.opened) + 1)


def test_bytes_that_stay_wrong_are_asked_for_only_once_more(prepared):
    stores = RottenStores(cure=False)
    reader = open_reader(prepared, stores=stores)
    ordinal, place = kept_samples(prepared)
    spoil(reader, stores, ordinal, place)
    with pytest.raises(DataError, match="not those that were prepared"):
        reader.read(ordinal, place)
    assert len(stores.opened[0].asked) == 2


def test_a_shard_is_asked_once_for_all_its_extents_in_the_order_of_the_file(prepared):
    stores = RottenStores(cure=True)
    ordinal, place = kept_samples(prepared)
    shuffled = np.random.default_rng(1).permutation(ordinal.size)
    open_reader(prepared, stores=stores).read(ordinal[shuffled], place[shuffled])
    assert len(stores.opened) == prepared.num_shards
    for ordinal, shard in enumerate(stores.opened):
        (asked,) = shard.asked
        kept = prepared.places(ordinal, "train").size
        assert len(asked) == 2 * kept
        assert asked[:kept] == sorted(asked[:kept])


def test_open_shards_are_bounded_and_evicted_ones_are_opened_again(prepared, monkeypatch):
    monkeypatch.setattr(samples, "OPEN_BYTES", 2 * samples.MAP_BYTES)
    stores = RottenStores(cure=True)
    reader = open_reader(prepared, stores=stores)
    ordinal, place = kept_samples(prepared)
    for _ in range(2):
        for o in range(prepared.num_shards):
            reader.read(ordinal[ordinal == o], place[ordinal == o])
    assert len(reader._shards) == 1
    assert len(stores.opened) == 2 * prepared.num_shards


def test_a_shard_that_has_changed_since_it_was_prepared_is_refused(tmp_path):
    write_arrays(tmp_path / "data", 2)
    manifest = prepare(array_config(tmp_path))
    write_arrays(tmp_path / "data", 2, samples=7)
    with pytest.raises(DataError, match="has changed since it was indexed"):
        open_reader(manifest).read(*kept_samples(manifest))


def test_threads_may_read_at_once(prepared):
    reader = open_reader(prepared)
    ordinal, place = kept_samples(prepared)
    expected = [bytes(view) for view in open_reader(prepared).read(ordinal, place).views[0]]
    found = []

    def read():
        found.append([bytes(view) for view in reader.read(ordinal, place).views[0]])

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 8
