"""The tables of segments: what is read of them in bulk is what is read shard by shard, and damage is named."""

import numpy as np
import pytest

from orchestrator.core.errors import DataError
from orchestrator.data.shards.manifest import Manifest
from orchestrator.data.shards.split import SPLITS
from orchestrator.prepare.run import prepare
from tests.fakes.shards import make_config, write_dataset


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Eight shards in several segments, with all three splits."""
    root = tmp_path_factory.mktemp("segments")
    write_dataset(root / "data", 8, documents=12)
    return prepare(make_config(root, {"split": {"validation": 0.3, "test": 0.2}, "segment_shards": 2}))


def reopen(manifest):
    return Manifest.of_chain(manifest.work.root, manifest.chain, manifest.roots)


@pytest.mark.parametrize("split", SPLITS)
def test_checksums_of_samples_anywhere_are_those_of_their_shards(prepared, split):
    places = [prepared.places(ordinal, split) for ordinal in range(prepared.num_shards)]
    ordinals = np.repeat(np.arange(prepared.num_shards), [part.size for part in places])
    each = np.concatenate([prepared.checksums(ordinal, split) for ordinal in range(prepared.num_shards)])
    mixed = np.random.default_rng(0).permutation(ordinals.size)
    found = prepared.checksums_at(ordinals[mixed], np.concatenate(places)[mixed], split)
    assert len(prepared.segments) > 1
    assert np.array_equal(found, each[mixed])


def test_a_sample_of_another_split_or_of_none_has_no_checksum(prepared):
    ordinal = next(n for n in range(prepared.num_shards) if prepared.places(n, "validation").size)
    (kept, other) = (int(prepared.places(ordinal, split)[0]) for split in ("train", "validation"))
    for wrong in (other, 12, -1):
        with pytest.raises(DataError, match=rf"sample {wrong} is not kept in split 'train'"):
            prepared.checksums_at(np.array([ordinal, ordinal]), np.array([kept, wrong]), "train")


@pytest.mark.parametrize("table", ["shards", "samples"])
def test_a_table_of_which_a_bit_has_flipped_is_named(tmp_path, table):
    write_dataset(tmp_path / "data", 3)
    manifest = prepare(make_config(tmp_path))
    path = manifest.work.segment_table(manifest.chain, 0, table)
    numbers = manifest.checksums(0, "train")[0, 1] if table == "samples" else manifest.totals("train")[0]
    data = bytearray(path.read_bytes())
    at = data.find(int(numbers).to_bytes(8, "little"))
    assert at > 0
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"{path.name}: is damaged: its checksum differs"):
        reopen(manifest).checksums(0, "train")


def test_names_and_numbers_are_found_by_ordinal_over_all_segments(prepared):
    names = prepared.shard_names()
    assert [prepared.shard_name(ordinal) for ordinal in range(prepared.num_shards)] == names
    assert sorted(names) == [f"data/{n:04d}.tar" for n in range(8)]
    assert prepared.kept("train").dtype == prepared.totals("train").dtype == np.int64
    assert [len(prepared.keys(ordinal)) for ordinal in range(prepared.num_shards)] == [12] * 8
    kept = sum(prepared.kept(split) for split in SPLITS)
    assert kept.tolist() == [12] * 8
