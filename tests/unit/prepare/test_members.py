"""Preparing samples that are fed as they are: no tokenizer, a checksum of what will be fed, missing members named."""

import re

import numpy as np
import pytest
import xxhash

from orchestrator.core.errors import DataError
from orchestrator.data.shards.index import find_index
from orchestrator.data.shards.manifest import Manifest
from orchestrator.prepare.run import index_all, prepare
from tests.fakes.pictures import FIELDS, draw_picture, picture_config, write_pictures
from tests.fakes.shards import read_tree, run_backwards, write_tar


def test_pictures_are_kept_with_their_sizes_and_without_tokens(tmp_path):
    write_pictures(tmp_path / "data", 4)
    manifest = prepare(picture_config(tmp_path))
    assert not manifest.has_tokenizer
    assert manifest.kept("train").tolist() == [6] * 4
    numbers = [int(key[1:]) for key in manifest.keys(0)]
    assert manifest.sizes("train")[0] == sum(len(draw_picture(number)) + 1 for number in numbers)


def test_a_single_field_is_checked_by_the_hash_of_its_bytes(tmp_path):
    write_pictures(tmp_path / "data", 1)
    manifest = prepare(picture_config(tmp_path, {"fields": {"image": FIELDS["image"]}}))
    numbers = [int(key[1:]) for key in manifest.keys(0)]
    expected = [xxhash.xxh3_128_intdigest(draw_picture(number)) for number in numbers]
    found = [(int(high) << 64) + int(low) for high, low in manifest.checksums(0, "train")]
    assert found == expected


def test_every_fed_byte_counts_and_others_do_not(tmp_path):
    def checksums(name, label, other):
        members = [("a.cls", label), ("a.json", other), ("a.png", b"p")]
        write_tar(tmp_path / name / "data" / "s.tar", members)
        return prepare(picture_config(tmp_path / name)).checksums(0, "train").tolist()

    first = checksums("one", b"1", b"{}")
    assert checksums("two", b"2", b"{}") != first
    assert checksums("three", b"1", b"[]") == first


def test_the_first_suffix_of_a_field_is_taken(tmp_path):
    members = [("a.cls", b"0"), ("a.jpg", b"jpg"), ("a.png", b"png"), ("b.cls", b"0"), ("b.jpg", b"only")]
    path = write_tar(tmp_path / "data" / "s.tar", members)
    prepare(picture_config(tmp_path))
    places = find_index(str(path), tmp_path / "work").find_members(["png", "jpg"])
    data = path.read_bytes()
    assert [data[b : b + n] for b, n in zip(places.begin, places.size, strict=True)] == [b"png", b"only"]
    assert places.suffix.tolist() == [0, 1]


def test_a_missing_member_is_named_or_left_out(tmp_path):
    write_tar(tmp_path / "data" / "s.tar", [("a.cls", b"0"), ("a.png", b"x"), ("b.cls", b"1"), ("c.png", b"x")])
    said = r"2 bad samples: b: no member .png or .jpg for field image; c: no member .cls for field label"
    with pytest.raises(DataError, match=re.escape(said)) as caught:
        prepare(picture_config(tmp_path))
    assert "data.fields" in caught.value.remedy
    manifest = prepare(picture_config(tmp_path, {"on_bad": "skip"}))
    assert manifest.places(0, "train").tolist() == [0]
    assert manifest.segments[0].bad == {"samples": 2, "shards": 0}


def test_indexing_counts_what_lacks_a_member(tmp_path):
    write_tar(tmp_path / "data" / "s.tar", [("a.cls", b"0"), ("a.png", b"x"), ("b.cls", b"1"), ("c.png", b"x")])
    (report,) = index_all(picture_config(tmp_path))
    assert (report.samples, report.missing, report.bad) == (3, 2, 0)


def test_order_of_preparing_does_not_show(tmp_path):
    for name in ("one", "two"):
        write_pictures(tmp_path / name / "data", 7)
    prepare(picture_config(tmp_path / "one"))
    prepare(picture_config(tmp_path / "two"), run_backwards)
    trees = [
        {name: data for name, data in read_tree(tmp_path / who / "work" / "chains").items() if "seen-" not in name}
        for who in ("one", "two")
    ]
    assert trees[0] == trees[1]


def test_a_manifest_of_samples_can_be_written_and_loaded(tmp_path):
    write_pictures(tmp_path / "data", 2)
    manifest = prepare(picture_config(tmp_path))
    manifest.write(tmp_path / "manifest.json")
    loaded = Manifest.load(tmp_path / "manifest.json")
    assert not loaded.has_tokenizer
    assert np.array_equal(loaded.checksums(1, "train"), manifest.checksums(1, "train"))


def test_nothing_is_done_twice(tmp_path):
    write_pictures(tmp_path / "data", 2)
    prepare(picture_config(tmp_path))

    def no_jobs(function, jobs):
        raise AssertionError(f"{function.__name__} was to be run")

    assert prepare(picture_config(tmp_path), no_jobs).num_shards == 2
