"""Documents that nobody wished for, where samples are compared: named, counted or left alone, never silently wrong."""

import os
import random
import subprocess

import numpy as np
import pytest

from orchestrator.core.errors import DataError
from orchestrator.data.decoding.texts import open_tokenizer
from orchestrator.prepare import text as text_module
from orchestrator.prepare.funnel import count_funnels
from orchestrator.prepare.run import prepare
from orchestrator.prepare.text import cut_text
from tests.fakes.copies import NEAR, config_of, drops_of, make_text, named_drops, published, write_varied
from tests.fakes.shards import write_tar, write_texts


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def write_broken(root):
    text = make_text(random.Random(1)).encode()
    members = [
        ("ok.txt", text),
        ("wrong.txt", text[:50] + b"\xc3(" + text[50:]),
        ("cut.txt", text + "ä".encode()[:1]),
        ("empty.txt", b""),
        ("json-only.json", b"{}"),
        ("twin.txt", text),
    ]
    write_tar(root / "data" / "0.tar", members)
    return len(text)


@pytest.mark.parametrize("section", [NEAR, {"dedup": {}}, {"decontaminate": {"similarity": None, "files": []}}])
def test_undecodable_text_stops_the_work_and_is_named_with_its_byte(tmp_path, section):
    size = write_broken(tmp_path)
    with pytest.raises(DataError) as caught:
        prepare(config_of(tmp_path, section))
    assert "data/0.tar" in str(caught.value)
    for said in ("wrong: byte 50 of .txt is no UTF-8", f"cut: byte {size} of .txt", "json-only: no member .txt"):
        assert said in str(caught.value)
    assert "empty" not in caught.value.message
    assert "data.on_bad=skip" in caught.value.remedy
    assert not list((tmp_path / "work").glob("chains/*/*.json"))


def test_undecodable_and_empty_texts_are_counted_when_they_may_be_skipped(tmp_path):
    write_broken(tmp_path)
    manifest = prepare(config_of(tmp_path, NEAR, on_bad="skip"))
    rules = {name.rsplit("/", 1)[1]: row[:2] for name, row in named_drops(manifest).items()}
    assert rules == {
        "wrong": ("not UTF-8", ""),
        "cut": ("not UTF-8", ""),
        "empty": ("empty", ""),
        "json-only": ("no text", ""),
        "twin": ("exact duplicate", "data/0.tar/ok"),
    }
    (funnel,) = count_funnels(manifest)
    assert (funnel.samples, funnel.kept) == (6, 1)
    assert funnel.dropped == {"not UTF-8": 2, "empty": 1, "no text": 1, "exact duplicate": 1}


def test_documents_too_short_to_compare_go_only_if_they_are_the_same(tmp_path):
    texts = {
        "four": "just four words here",
        "other-four": "just four words there",
        "again": "just  four words\nhere ",
        "signs": "!!! ... ???",
        "other-signs": "??? ... !!!",
        "signs-again": "!!! ...  ???",
        "space": " \n ",
        "other-space": "\t",
        "nine": "短い文はここ",
        "nine-and-one": "短い文はここだ",
    }
    write_texts(tmp_path / "data" / "0.tar", texts)
    manifest = prepare(config_of(tmp_path, NEAR))
    partners = {name.rsplit("/", 1)[1]: row[:2] for name, row in named_drops(manifest).items()}
    assert partners == {
        "again": ("exact duplicate", "data/0.tar/four"),
        "signs-again": ("exact duplicate", "data/0.tar/signs"),
        "other-space": ("exact duplicate", "data/0.tar/space"),
    }


def test_a_source_of_duplicates_only_stops_the_work_and_is_named_among_sound_ones(tmp_path):
    write_varied(tmp_path / "sound", range(4), documents=30)
    text = make_text(random.Random(3))
    for shard in range(4):
        write_texts(tmp_path / "copied" / f"{shard}.tar", {f"d{i:03d}": text for i in range(40)})
    sources = [{"path": str(tmp_path / name)} for name in ("sound", "copied")]
    config = config_of(tmp_path, {"dedup": {}}, train=sources, segment_shards=20)
    with pytest.raises(DataError, match="159 of the 160 samples of source copied would go") as caught:
        prepare(config)
    assert "159 x copied/" in str(caught.value)
    assert not list((tmp_path / "work").glob("chains/*/*.json"))
    meant = config_of(tmp_path, {"dedup": {"most_lost": 1.0}}, train=sources, segment_shards=20)
    assert count_funnels(prepare(meant))[1].kept == 1


def test_many_same_documents_trip_the_guard_by_default(tmp_path):
    texts = dict.fromkeys((f"d{i:05d}" for i in range(5000)), make_text(random.Random(4), 20))
    write_texts(tmp_path / "data" / "0.tar", texts)
    with pytest.raises(DataError, match="4,999 of the 5,000 samples of source data would go as duplicates, 100%"):
        prepare(config_of(tmp_path, NEAR))
    manifest = prepare(config_of(tmp_path, {"dedup": {**NEAR["dedup"], "most_lost": 1.0}}))
    assert {(row["rule"], row["partner_place"]) for row in drops_of(manifest).values()} == {("exact duplicate", 0)}
    assert manifest.places(0, "train").tolist() == [0]


@pytest.mark.parametrize("size", ["48k", "96k", "160k"])
def test_a_full_disk_stops_the_work_with_the_key_and_does_no_harm(tmp_path, size):
    for root in (tmp_path / "full", tmp_path / "calm"):
        write_varied(root / "data", range(4))
    work = tmp_path / "full" / "work"
    work.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(work)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        with pytest.raises(DataError, match=r"No space left(.|\n)*data\.work"):
            prepare(config_of(tmp_path / "full", NEAR))
        subprocess.run(["mount", "-o", "remount,size=64m", str(work)], check=True)
        prepare(config_of(tmp_path / "full", NEAR))
        prepare(config_of(tmp_path / "calm", NEAR))
        assert published(tmp_path / "full") == published(tmp_path / "calm")
    finally:
        subprocess.run(["umount", str(work)], check=True)


def test_a_long_text_is_cut_between_words_and_loses_nothing(monkeypatch):
    monkeypatch.setattr(text_module, "PIECE", 40)
    for text in (make_text(random.Random(5)), "x" * 500, "語" * 200, "a " * 200, " " * 100, "", "short"):
        cuts = list(cut_text(text))
        assert "".join(text[begin:end] for begin, end in cuts) == text
        assert max(end - begin for begin, end in cuts) <= 40
    text = make_text(random.Random(6))
    assert all(text[begin - 1 : begin + 1].strip() == text[begin - 1] for begin, _ in list(cut_text(text))[1:])


def test_a_long_text_becomes_the_same_tokens_in_pieces_as_at_once(tmp_path, monkeypatch):
    rng = random.Random(7)
    texts = {"a": make_text(rng), "long": make_text(rng, 2000), "z": make_text(rng)}
    write_texts(tmp_path / "data" / "0.tar", texts)
    whole = prepare(config_of(tmp_path))
    monkeypatch.setattr(text_module, "PIECE", 700)
    pieces = prepare(config_of(tmp_path, work=str(tmp_path / "pieces")))
    assert pieces.ids == whole.ids  # also what the tokenizer has learnt
    assert np.array_equal(pieces.tokens(0), whole.tokens(0))
    told = open_tokenizer(pieces.tokenizer).decode(pieces.tokens(0).tolist(), skip_special_tokens=False)
    assert told.split("<|endoftext|>") == [*texts.values(), ""]
