import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from orchestrator.core.errors import DataError
from orchestrator.data.shards.manifest import Manifest
from orchestrator.prepare.run import prepare
from tests.fakes.shards import make_config, write_dataset, write_texts

SPLIT = {"validation": 0.3, "test": 0.2}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("manifest")
    write_dataset(root / "data", 7, documents=12)
    write_dataset(root / "more", 4, documents=3, first=50)
    data = {"train": [{"path": str(root / "data")}, {"path": str(root / "more")}], "split": SPLIT}
    return prepare(make_config(root, data))


@pytest.fixture
def own(tmp_path):
    """A small dataset that a test may damage."""
    write_dataset(tmp_path / "data", 4)
    return prepare(make_config(tmp_path))


def documents_of(manifest, ordinal):
    """Key -> text as the standard library reads the shard."""
    with tarfile.open(manifest.shard(ordinal).url) as tar:
        return {info.name.split(".")[0]: io.TextIOWrapper(tar.extractfile(info)).read() for info in tar}


def test_every_document_is_in_one_split_with_its_tokens_and_end_mark(prepared):
    info = prepared.tokenizer
    tokenizer = Tokenizer.from_file(info.path)
    for ordinal in range(prepared.num_shards):
        found = {}
        for split in ("train", "validation", "test"):
            places = prepared.places(ordinal, split)
            lengths, offsets = prepared.lengths(ordinal, split), prepared.offsets(ordinal, split)
            assert (
                prepared.kept(split)[ordinal] == len(places) == len(lengths) == len(prepared.checksums(ordinal, split))
            )
            assert prepared.totals(split)[ordinal] == lengths.sum()
            for key, first, count in zip(prepared.keys(ordinal, places), offsets, lengths, strict=True):
                tokens = prepared.tokens(ordinal)[first : first + count]
                assert tokens[-1] == info.end_id
                assert info.end_id not in tokens[:-1]
                assert key not in found
                found[key] = tokenizer.decode(list(tokens[:-1]))
        assert found == documents_of(prepared, ordinal)
        assert prepared.keys(ordinal) == sorted(found)


def test_segments_are_a_chain_over_all_ordinals(prepared):
    heads = prepared.segments
    assert [head.previous for head in heads] == ["", *(head.id for head in heads[:-1])]
    assert [ordinal for head in heads for ordinal in head.ordinals] == list(range(11))
    assert prepared.chain_id == heads[-1].id
    for split in ("train", "validation", "test"):
        assert sum(head.totals[f"tokens_{split}"] for head in heads) == prepared.totals(split).sum() > 0


def test_segments_of_a_source_hold_its_ordinals(prepared):
    assert prepared.source_names == ["data", "more"]
    for source, (label, count) in enumerate([("data", 7), ("more", 4)]):
        parts = prepared.segments_of(source)
        assert len(parts) == len(prepared.segments)
        ordinals = np.concatenate(parts)
        assert len(ordinals) == count
        assert {prepared.shard_name(int(ordinal)).split("/")[0] for ordinal in ordinals} == {label}
        assert all(prepared.shard(int(ordinal)).source == source for ordinal in ordinals)


def test_checksums_differ_between_samples(prepared):
    seen = {
        tuple(row)
        for o in range(11)
        for split in ("train", "validation", "test")
        for row in prepared.checksums(o, split)
    }
    assert len(seen) == sum(prepared.kept(split).sum() for split in ("train", "validation", "test"))


def test_a_written_manifest_loads_equal_and_says_its_format(prepared, tmp_path):
    prepared.write(tmp_path / "manifest.json")
    assert json.loads((tmp_path / "manifest.json").read_text())["format"] == 1
    for again in (Manifest.load(tmp_path / "manifest.json"), pickle.loads(pickle.dumps(prepared))):
        assert again.segments == prepared.segments
        assert again.shard(3) == prepared.shard(3)
        assert np.array_equal(again.tokens(3), prepared.tokens(3))


def test_a_manifest_keeps_its_prefix_when_the_chain_grows(own, tmp_path):
    own.write(tmp_path / "manifest.json")
    write_dataset(tmp_path / "data", 3, first=10)
    grown = prepare(make_config(tmp_path))
    assert grown.num_shards == 7
    assert Manifest.load(tmp_path / "manifest.json").segments == own.segments
    grown.check_prefix(own.ids)
    with pytest.raises(DataError, match=r"segment 2 is missing"):
        own.check_prefix(grown.ids)


def test_other_data_is_refused_by_the_first_segment_that_differs(own, tmp_path):
    write_texts(tmp_path / "other" / "data" / "0000.tar", {"k": "another text"})
    other = prepare(make_config(tmp_path / "other"))
    with pytest.raises(DataError, match=r"segment 0 is .* the run used .*") as caught:
        other.check_prefix(own.ids)
    assert "start a new run" in caught.value.remedy


def test_a_deleted_work_place_is_named_and_may_be_made_again(own, tmp_path):
    own.write(tmp_path / "manifest.json")
    (tmp_path / "work").rename(tmp_path / "gone")
    with pytest.raises(DataError, match=r"segment 0 is missing(.|\n)*longhaul prepare"):
        Manifest.load(tmp_path / "manifest.json")
    prepare(make_config(tmp_path))
    assert Manifest.load(tmp_path / "manifest.json").ids == own.ids


@pytest.mark.parametrize("pattern", ["prepared/**/*.tokens", "chains/*/*.samples.arrow", "chains/*/*.shards.arrow"])
@pytest.mark.parametrize("harm", ["cut", "lost"])
def test_damaged_work_files_are_named_with_what_to_do(own, tmp_path, pattern, harm):
    for path in (tmp_path / "work").glob(pattern):
        path.write_bytes(path.read_bytes()[:-8]) if harm == "cut" else path.unlink()
    manifest = Manifest(own.work, own.chain, own.segments, own.roots)
    with pytest.raises(DataError, match=r"(damaged|missing|cannot be used)(.|\n)*longhaul prepare again") as caught:
        manifest.keys(0), manifest.tokens(0)
    assert Path(pattern).suffix in caught.value.where


def test_flipped_token_is_found_when_asked(own):
    own.check_tokens(0)
    path = own.tokens_path(0)
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="checksum differs"):
        Manifest(own.work, own.chain, own.segments, own.roots).check_tokens(0)


def test_a_raw_shard_that_is_gone_is_named(own):
    Path(own.shard(0).url).unlink()
    with pytest.raises(DataError, match="cannot be read"):
        own.shard(0)


def test_nothing_prepared_is_said(tmp_path):
    with pytest.raises(DataError, match="no segment is prepared"):
        Manifest.of_chain(tmp_path, "none")


def test_a_run_that_began_with_the_first_segment_takes_in_the_others_as_its_manifest_names_them(tmp_path):
    write_dataset(tmp_path / "data", 14)
    file = tmp_path / "manifest.json"
    begun = prepare(make_config(tmp_path), most=1)
    assert (len(begun.segments), begun.segments_to_come) == (1, 2)
    begun.write(file)
    growing = Manifest.load(file)
    assert growing.segments_to_come == 2
    kept = growing.kept("train")
    whole = prepare(make_config(tmp_path))
    assert (len(whole.segments), whole.segments_to_come) == (3, 0)
    assert not growing.grow()  # prepared, but not named yet
    prepare(make_config(tmp_path), most=2).first(2).write(file)
    for count in (2, 3):
        whole.first(count).first(3).write(file)
        assert growing.grow()
        assert not growing.grow()
        assert (growing.segments, growing.segments_to_come) == (whole.segments[:count], 3 - count)
        assert np.array_equal(growing.kept("train"), whole.kept("train")[: growing.num_shards])
        last = growing.num_shards - 1
        assert np.array_equal(growing.tokens(last), whole.tokens(last))
    assert np.array_equal(growing.kept("train")[: kept.size], kept)


def test_a_run_is_told_of_what_has_been_committed_and_of_no_more_than_it_expects(tmp_path):
    write_dataset(tmp_path / "data", 14)
    file = tmp_path / "manifest.json"
    prepare(make_config(tmp_path), most=1).first(2).write(file)
    untouched = file.stat().st_mtime_ns
    assert Manifest.catch_up(file).segments_to_come == 1
    assert file.stat().st_mtime_ns == untouched
    whole = prepare(make_config(tmp_path))
    assert len(whole.segments) == 3
    for _ in range(2):
        caught_up = Manifest.catch_up(file)
        assert (caught_up.ids, caught_up.segments_to_come) == (whole.ids[:2], 0)
    assert Manifest.load(file).ids == whole.ids[:2]
    counts = json.loads(file.read_text())["counts"]["train"]
    assert counts == {"samples": caught_up.kept("train").sum(), "tokens": caught_up.totals("train").sum()}


def test_a_manifest_that_names_other_segments_than_the_chain_is_refused_when_it_grows(own, tmp_path):
    file = tmp_path / "manifest.json"
    own.first(1).first(2).write(file)
    growing = Manifest.load(file)
    own.write(file)
    file.write_text(file.read_text().replace(own.ids[1], "0" * 32))
    with pytest.raises(DataError, match=r"segment 1 is .*, the run used 0000"):
        growing.grow()
