"""Samples whose json member names the same group share a split, wherever they lie."""

import json
import os

import pytest

from orchestrator.config.data import SplitSection
from orchestrator.core.errors import DataError
from orchestrator.prepare.rules import Rules
from orchestrator.prepare.run import index_all, prepare
from tests.fakes.copies import NEAR, config_of, drops_of, splits_of
from tests.fakes.shards import write_tar

SPLIT = {"validation": 0.25, "test": 0.25, "by": "user"}
FIELDS = {"fields": {"text": {"members": ["txt"]}}}


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def write_users(root, shards=4, users=24, lacking=()):
    """Every shard has a document of every user."""
    for source in ("web", "books"):
        for shard in range(shards):
            members = []
            for user in range(users):
                meta = {} if (shard, user) in lacking else {"user": {"id": user, "name": "ä"}, "n": shard}
                members.append((f"u{user}.txt", f"{source} shard {shard} of user {user} says these words".encode()))
                members.append((f"u{user}.json", json.dumps(meta).encode()))
            write_tar(root / source / f"{shard}.tar", members)


def grouped(root, section=None, **data):
    sources = [{"path": str(root / name)} for name in ("web", "books")]
    return config_of(root, section, **{"train": sources, "split": SPLIT, **data})


def splits_of_users(manifest):
    found = {}
    for (_, place), split in splits_of(manifest).items():
        found.setdefault(place, set()).add(split)
    return found


@pytest.mark.parametrize("section", [{}, NEAR, {"dedup": {}, "tokens": None}, {"tokens": None}])
def test_samples_of_one_group_share_a_split_in_all_shards_and_sources(tmp_path, section):
    write_users(tmp_path)
    manifest = prepare(grouped(tmp_path, section, **(FIELDS if "tokens" in section else {})))
    found = splits_of_users(manifest)
    assert len(splits_of(manifest)) == 24 * 8
    assert all(len(splits) == 1 for splits in found.values())
    assert set.union(*found.values()) == {"train", "validation", "test"}


def test_shares_are_those_of_groups(tmp_path):
    write_users(tmp_path, shards=1, users=2000)
    manifest = prepare(grouped(tmp_path, {"tokens": None}, **FIELDS))
    assert manifest.kept("validation").sum() / 4000 == pytest.approx(0.25, abs=0.03)
    assert manifest.kept("test").sum() / 4000 == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("section", [{}, NEAR, {"dedup": {}, "tokens": None}, {"tokens": None}])
def test_a_sample_without_its_group_is_broken_and_named(tmp_path, section):
    write_users(tmp_path, lacking={(1, 3), (2, 5)})
    data = FIELDS if "tokens" in section else {}
    with pytest.raises(DataError, match=r"u[35]: no user in \.json") as caught:
        prepare(grouped(tmp_path, section, **data))
    assert "data.split.by" in caught.value.remedy
    assert "data.on_bad=skip" in caught.value.remedy
    manifest = prepare(grouped(tmp_path, section, on_bad="skip", **data))
    rows = drops_of(manifest)
    names = manifest.shard_names()
    assert sorted(f"{names[ordinal]}/{place}" for ordinal, place in rows) == [
        "books/1.tar/3", "books/2.tar/5", "web/1.tar/3", "web/2.tar/5",
    ]  # fmt: skip
    assert {row["rule"] for row in rows.values()} == {"no group"}
    assert sum(head.bad["samples"] for head in manifest.segments) == 4
    assert len(splits_of(manifest)) == 24 * 8 - 4


@pytest.mark.parametrize("meta", [b"", b"nothing", b"[1]", b"\xff", b'{"user": null}', b'{"User": 1}', None])
def test_what_names_no_group_is_no_group(tmp_path, meta):
    members = [("a.txt", b"some text of a"), ("a.json", b'{"user": 0}'), ("b.txt", b"some text of b")]
    write_tar(tmp_path / "web" / "0.tar", members + ([] if meta is None else [("b.json", meta)]))
    config = config_of(tmp_path, train=[{"path": str(tmp_path / "web")}], split={"by": "user"}, on_bad="skip")
    assert [row["rule"] for row in drops_of(prepare(config)).values()] == ["no group"]


def test_a_broken_sample_is_told_once(tmp_path):
    members = [("a.txt", b"some text"), ("a.json", b'{"user": 0}'), ("b.json", b"{}"), ("c.txt", b"")]
    write_tar(tmp_path / "web" / "0.tar", members)
    sources = [{"path": str(tmp_path / "web")}]
    for number, section in enumerate(({}, NEAR)):
        config = config_of(
            tmp_path, section, train=sources, split={"by": "user"}, on_bad="skip", work=str(tmp_path / f"{number}")
        )
        assert [(place, row["rule"]) for (_, place), row in drops_of(prepare(config)).items()] == [
            (1, "no group"), (2, "no group"),
        ]  # fmt: skip


def test_index_counts_samples_without_a_json_member(tmp_path):
    write_tar(tmp_path / "web" / "0.tar", [("a.txt", b"text"), ("a.json", b"{}"), ("b.txt", b"text")])
    config = config_of(tmp_path, train=[{"path": str(tmp_path / "web")}], split={"by": "user"})
    assert [report.missing for report in index_all(config)] == [1]


def test_rules_that_know_no_groups_keep_their_id(tmp_path):
    def rules(**split):
        return Rules(split=SplitSection(**split), on_bad="fail", text_member="txt")

    assert rules(validation=0.1).id == "ebbf8a1482fbeee6e54f92f7536ddd53"
    assert rules(validation=0.1, by="user").id != rules(validation=0.1).id
