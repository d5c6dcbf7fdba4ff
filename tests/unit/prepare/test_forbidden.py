"""Training texts that repeat a text of another source, given as tar shards that are compared with and never fed."""

import os
import random

import pytest

from orchestrator.core.errors import DataError
from orchestrator.prepare.run import prepare
from tests.fakes.copies import config_of, drops_of, make_text, named_drops
from tests.fakes.shards import write_tar, write_texts


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def clear_of(root, *files, **data):
    section = {"decontaminate": {"similarity": None, "files": [str(root / file) for file in files]}}
    return config_of(root, section, **data)


def write_shards(root):
    rng = random.Random(1)
    benchmark = {f"q{i}": make_text(rng, 40) for i in range(3)}
    write_tar(
        root / "bench.tar",
        [(f"tests/{key}.{end}", text.encode()) for key, text in benchmark.items() for end in ("TXT", "json")],
    )
    texts = {f"d{i:02d}": make_text(rng) for i in range(20)}
    texts["d03"] += " " + " ".join(benchmark["q1"].split()[7:20]).upper()
    texts["d05"] += " " + " ".join(benchmark["q2"].split()[7:19])  # one word less
    write_texts(root / "data" / "0.tar", texts)
    return texts


def test_a_document_that_repeats_a_text_of_another_source_goes(tmp_path):
    write_shards(tmp_path)
    manifest = prepare(clear_of(tmp_path, "bench.tar"))
    assert [row["reason"] for row in drops_of(manifest).values()] == ["13 words in a row as in bench.tar:q1"]
    assert list(named_drops(manifest)) == ["data/0.tar/d03"]


def test_what_the_other_source_holds_is_part_of_the_rules_and_where_it_lies_is_not(tmp_path):
    write_shards(tmp_path)
    first = prepare(clear_of(tmp_path, "bench.tar"))
    (tmp_path / "bench.tar").rename(tmp_path / "moved.tar")
    assert prepare(clear_of(tmp_path, "moved.tar")).ids == first.ids
    write_texts(tmp_path / "moved.tar", {"q": "something else that is long enough to be looked for"})
    assert prepare(clear_of(tmp_path, "moved.tar")).ids != first.ids


def test_tested_documents_may_repeat_it(tmp_path):
    texts = write_shards(tmp_path)
    write_texts(tmp_path / "bench.tar", texts)
    write_texts(tmp_path / "data" / "1.tar", {f"new{i}": make_text(random.Random(50 + i)) for i in range(10)})
    manifest = prepare(clear_of(tmp_path, "bench.tar", split={"validation": 0.3}))
    kept = {
        split: {key[:3] for ordinal in (0, 1) for key in manifest.keys(ordinal, manifest.places(ordinal, split))}
        for split in ("train", "validation")
    }
    assert kept["train"] == {"new"}
    assert any(key.startswith("d") for key in kept["validation"])


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([("a.json", b"{}")], r"no sample has a member \.txt"),
        ([("a.txt", b"\xff")], r"a\.txt: is no UTF-8: byte 0"),
        (None, "is no tar shard"),
    ],
)
def test_a_shard_that_cannot_be_compared_with_is_named(tmp_path, members, says):
    write_shards(tmp_path)
    if members is None:
        (tmp_path / "bench.tar").write_bytes(b"nothing " * 1000)
    else:
        write_tar(tmp_path / "bench.tar", members)
    with pytest.raises(DataError, match=says) as caught:
        prepare(clear_of(tmp_path, "bench.tar"))
    assert str(tmp_path / "bench.tar") in caught.value.where
