"""What holds of every preparation that compares, whatever the texts: found by brute force over all pairs."""

import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.prepare.run import prepare
from tests.fakes.copies import (
    config_of,
    drops_of,
    make_text,
    named_drops,
    shingles,
    similarity_of,
    splits_of,
    texts_of,
    vary,
)
from tests.fakes.shards import write_texts

SOURCES = ("web", "books", "code")
small = settings(
    max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@st.composite
def corpora(draw):
    """Shards of three sources; texts in families whose members differ in so many words."""
    rng = draw(st.randoms(use_true_random=False))
    heads = [make_text(rng, 60) for _ in range(draw(st.integers(1, 4)))]
    changes = st.integers(0, 5)
    count = draw(st.integers(3, 9))
    shards = []
    for shard in range(count):
        texts = {
            f"d{i}": vary(rng, heads[draw(st.integers(0, len(heads) - 1))], draw(changes))
            for i in range(draw(st.integers(1, 8)))
        }
        shards.append((SOURCES[shard % len(SOURCES)], texts))
    return shards


def write(root, shards):
    for number, (source, texts) in enumerate(shards):
        write_texts(root / source / f"{number}.tar", texts)


def compare(root, shards, section, **data):
    write(root, shards)
    sources = [{"path": str(root / source)} for source in SOURCES]
    return prepare(config_of(root, section, **{"train": sources, "segment_shards": 2, **data}))


@small
@given(corpora(), st.sampled_from([0.6, 0.8, 0.9]))
def test_every_dropped_one_has_a_kept_partner_before_it_that_is_alike_enough(tmp_path_factory, shards, threshold):
    root = tmp_path_factory.mktemp("near")
    manifest = compare(root, shards, {"dedup": {"near": {"threshold": threshold}, "most_lost": 1.0}})
    drops, texts = drops_of(manifest), texts_of(manifest, root)
    for sample, row in drops.items():
        partner = (row["partner_ordinal"], row["partner_place"])
        assert partner < sample
        assert partner not in drops
        assert row["score"] == pytest.approx(similarity_of(texts[sample], texts[partner]))
        assert row["score"] >= threshold
        assert row["rule"] == "near duplicate" or texts[sample] == texts[partner]


@small
@given(corpora(), st.sampled_from([0.5, 0.9]))
def test_no_tested_document_has_a_training_twin_at_the_stated_similarity(tmp_path_factory, shards, similarity):
    root = tmp_path_factory.mktemp("clear")
    section = {"dedup": {"most_lost": 1.0}, "decontaminate": {"similarity": similarity}}
    split = {"validation": 0.2, "test": 0.2}
    extra = ("web", {f"extra{i}": make_text(random.Random(i), 30) for i in range(20)})  # there is always some to train on
    manifest = compare(root, [*shards, extra], section, split=split)
    texts, splits = texts_of(manifest, root), splits_of(manifest)
    trained = [texts[sample] for sample, split in splits.items() if split == "train"]
    tested = [texts[sample] for sample, split in splits.items() if split != "train"]
    assert all(similarity_of(one, other) < similarity for one in trained for other in tested)


@small
@given(corpora(), st.permutations(SOURCES))
def test_inside_a_segment_the_preferred_source_stays(tmp_path_factory, shards, prefer):
    root = tmp_path_factory.mktemp("prefer")
    section = {"dedup": {"near": {}, "prefer": prefer, "most_lost": 1.0}}
    manifest = compare(root, shards, section, segment_shards=100)
    names = manifest.shard_names()

    def rank(ordinal, place):
        return prefer.index(names[ordinal].split("/")[0]), ordinal, place

    drops = drops_of(manifest)
    for sample, row in drops.items():
        assert rank(row["partner_ordinal"], row["partner_place"]) < rank(*sample)
    texts = texts_of(manifest, root)
    for sample, text in texts.items():  # whoever comes first of those that are the same stays, unless near to another
        first = min((other for other in texts if texts[other] == text), key=lambda other: rank(*other))
        assert sample == first or sample in drops


@small
@given(corpora())
def test_comparing_moves_no_sample_to_another_split(tmp_path_factory, shards):
    root = tmp_path_factory.mktemp("splits")
    split = {"validation": 0.3, "test": 0.2}
    extra = ("web", {f"extra{i}": make_text(random.Random(i), 30) for i in range(20)})
    before = splits_of(compare(root, [*shards, extra], {}, split=split))
    section = {"dedup": {"near": {}, "most_lost": 1.0}}
    manifest = compare(root, [*shards, extra], section, split=split, work=str(root / "compared"))
    after = splits_of(manifest)
    assert after.items() <= before.items()
    assert before.keys() - after.keys() == drops_of(manifest).keys()


def test_a_source_that_is_not_preferred_keeps_what_an_earlier_segment_has_kept(tmp_path):
    text = make_text(random.Random(1))
    write_texts(tmp_path / "web" / "0.tar", {"late": text, "own": make_text(random.Random(2))})
    write_texts(tmp_path / "books" / "0.tar", {"early": text})
    sources = [{"path": str(tmp_path / name)} for name in ("books", "web")]
    section = {"dedup": {"near": {}, "prefer": ["web"]}}
    together = prepare(config_of(tmp_path, section, train=sources, segment_shards=2))
    apart = prepare(config_of(tmp_path, section, train=sources, segment_shards=1))
    assert named_drops(together) == {"books/0.tar/early": ("exact duplicate", "web/0.tar/late", 1.0)}
    assert named_drops(apart) == {"web/0.tar/late": ("exact duplicate", "books/0.tar/early", 1.0)}


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("我们在海边看见了很多船" "它们从远方的港口运来粮食和木材" "工人们整天都在码头上卸货直到太阳落山" * 1, "的"),
        ("私たちは海辺でたくさんの船を見ました" "それらは遠い港から穀物と木材を運んできます", "の"),
        ("เราเห็นเรือหลายลำที่ชายทะเลพวกมันขนข้าวและไม้มาจากท่าเรือที่อยู่ห่างไกล", "มา"),
        ("the grey harbours lie where cranes unload slow freight " + " ".join(f"w{i}" for i in range(40)), "now"),
    ],
    ids=["Chinese", "Japanese", "Thai", "English"],
)
def test_near_duplicates_go_in_any_script(tmp_path, text, changed):
    other = "".join(sorted(text)) if " " not in text else " ".join(sorted(text.split()))
    texts = {"first": text, "longer": f"{text} {changed}", "wide": f"{text}\u3000{changed}", "other": other}
    write_texts(tmp_path / "data" / "0.tar", texts)
    manifest = prepare(config_of(tmp_path, {"dedup": {"near": {}}}))
    partners = {name.rsplit("/", 1)[1]: row[:2] for name, row in named_drops(manifest).items()}
    assert partners["longer"] == ("near duplicate", "data/0.tar/first")
    assert partners["wide"][0] in ("near duplicate", "exact duplicate")
    assert "other" not in partners


def test_case_is_no_difference_to_near_duplicates_and_is_to_exact_ones(tmp_path):
    text = " ".join(f"Straße{i} HELLO World École" for i in range(10))
    texts = {"as-is": text, "lower": text.lower(), "upper": text.replace("ß", "SS").upper(), "title": text.title()}
    write_texts(tmp_path / "data" / "0.tar", texts)
    near = named_drops(prepare(config_of(tmp_path, {"dedup": {"near": {}}})))
    assert near["data/0.tar/lower"] == near["data/0.tar/title"] == ("near duplicate", "data/0.tar/as-is", 1.0)
    assert named_drops(prepare(config_of(tmp_path, {"dedup": {}}))) == {}


def test_shingles_here_are_those_of_the_rules():
    assert shingles("A b c D e F") == {("a", "b", "c", "d", "e"), ("b", "c", "d", "e", "f")}
