"""Verdicts that depend on other samples, from tar shards to committed segments."""

import random

import pytest

from orchestrator.core.errors import DataError
from orchestrator.core.mapping import run_serially
from orchestrator.prepare.explain import explain
from orchestrator.prepare.funnel import count_funnels
from orchestrator.prepare.run import prepare
from tests.fakes.copies import NEAR, config_of, drops_of, make_text, shingles, texts_of, write_varied
from tests.fakes.shards import read_tree, run_backwards, write_texts

LANGUAGE = {"name": "language", "args": {"model": "/none/such", "languages": ["en"]}}


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    root = tmp_path_factory.mktemp("varied")
    write_varied(root / "data", range(6), documents=30)
    return root, prepare(config_of(root, NEAR))


def test_every_dropped_one_has_a_kept_earlier_partner_that_is_as_alike_as_said(varied):
    root, manifest = varied
    drops, texts = drops_of(manifest), texts_of(manifest, root)
    assert {row["rule"] for row in drops.values()} == {"exact duplicate", "near duplicate"}
    for sample, row in drops.items():
        partner = (row["partner_ordinal"], row["partner_place"])
        assert partner < sample
        assert partner not in drops
        a, b = shingles(texts[sample]), shingles(texts[partner])
        assert row["score"] == pytest.approx(len(a & b) / len(a | b))
        assert row["score"] >= 0.8


def test_no_two_kept_ones_are_alike(varied):
    root, manifest = varied
    drops, texts = drops_of(manifest), texts_of(manifest, root)
    kept = [shingles(text) for sample, text in texts.items() if sample not in drops]
    alike = [len(a & b) / len(a | b) for i, a in enumerate(kept) for b in kept[:i]]
    assert max(alike) < 0.8


def test_any_order_and_repetition_of_jobs_gives_the_same_verdicts(varied, tmp_path):
    write_varied(tmp_path / "data", range(6), documents=30)
    manifest = prepare(config_of(tmp_path, NEAR), run_backwards)
    assert manifest.ids == varied[1].ids
    assert drops_of(manifest) == drops_of(varied[1])


def test_however_shards_are_cut_into_segments_the_verdicts_are_the_same(varied, tmp_path):
    write_varied(tmp_path / "data", range(6), documents=30)
    for shards in (1, 6):
        manifest = prepare(config_of(tmp_path, NEAR, segment_shards=shards, work=str(tmp_path / f"w{shards}")))
        assert drops_of(manifest) == drops_of(varied[1])


def test_funnels_add_up(varied):
    _, manifest = varied
    (funnel,) = count_funnels(manifest)
    assert funnel.samples == 180
    assert funnel.kept == funnel.samples - sum(funnel.dropped.values()) == int(manifest.kept("train").sum())
    assert funnel.tokens == int(manifest.totals("train").sum())


def test_a_drop_is_explained_with_partner_and_texts(varied):
    root, manifest = varied
    (ordinal, place), row = next(iter(drops_of(manifest).items()))
    name = f"{manifest.shard_name(ordinal)}/d{place:03d}"
    (found,) = explain(config_of(root, NEAR), name, texts=True)
    assert (found.sample, found.rule, found.score) == (name, row["rule"], row["score"])
    texts = texts_of(manifest, root)
    assert found.text == texts[ordinal, place]
    assert found.partner_text == texts[row["partner_ordinal"], row["partner_place"]]


def test_a_second_prepare_writes_nothing(varied):
    root, _ = varied
    before = read_tree(root / "work")
    prepare(config_of(root, NEAR), run_serially)
    assert read_tree(root / "work") == before


def test_a_source_of_duplicates_only_is_refused_with_its_largest_groups(tmp_path):
    rng = random.Random(1)
    texts = [make_text(rng), make_text(rng)]
    for shard in range(3):
        write_texts(tmp_path / "data" / f"{shard}.tar", {f"d{i:03d}": texts[i % 2] for i in range(60)})
    with pytest.raises(DataError, match="would go as duplicates") as caught:
        prepare(config_of(tmp_path, NEAR, segment_shards=10))
    assert "89 x data/" in str(caught.value)
    assert not list((tmp_path / "work" / "chains").rglob("segment-*.json"))


def test_a_training_document_close_to_a_test_document_goes(tmp_path):
    write_varied(tmp_path / "data", range(6), documents=30)
    config = config_of(tmp_path, {"decontaminate": {"similarity": 0.5}}, split={"validation": 0.2, "test": 0.1})
    manifest = prepare(config)
    drops, texts = drops_of(manifest), texts_of(manifest, tmp_path)
    assert {row["rule"] for row in drops.values()} == {"contaminated"}
    splits = {
        (ordinal, place): split
        for split in ("train", "validation", "test")
        for ordinal in range(manifest.num_shards)
        for place in manifest.places(ordinal, split).tolist()
    }
    train = [shingles(texts[sample]) for sample, split in splits.items() if split == "train"]
    tested = [shingles(texts[sample]) for sample, split in splits.items() if split != "train"]
    assert len(tested) > 20
    assert max(len(a & b) / len(a | b) for a in train for b in tested) < 0.5


def test_a_document_that_repeats_a_benchmark_goes(tmp_path):
    rng = random.Random(3)
    question, short = make_text(rng, 30), "what is the longest river of europe"
    texts = {f"d{i}": make_text(rng, 60) for i in range(8)}
    texts["d1"] += " " + " ".join(question.split()[5:18]).upper() + " " + make_text(rng, 20)
    texts["d2"] += " " + " ".join(question.split()[5:17]) + " " + make_text(rng, 20)  # one word less
    texts["d3"] += f" {short}? " + make_text(rng, 20)
    write_texts(tmp_path / "data" / "0.tar", texts)
    (tmp_path / "questions.jsonl").write_text(f'{{"q": ["{question}"], "n": 5}}\n\n{{"q": "{short}"}}\n')
    section = {"decontaminate": {"similarity": None, "files": [str(tmp_path / "questions.jsonl")]}}
    manifest = prepare(config_of(tmp_path, section))
    reasons = {row["place"]: row["reason"] for row in drops_of(manifest).values()}
    assert reasons == {
        1: "13 words in a row as in questions.jsonl:1",
        3: "7 words in a row as in questions.jsonl:3",
    }
    (tmp_path / "questions.jsonl").write_text("other\n")
    with pytest.raises(DataError, match="line 1 is no JSON"):
        prepare(config_of(tmp_path, section))


def test_cleaning_comes_before_comparing_and_alters_what_is_tokenised_only(tmp_path):
    rng = random.Random(4)
    mail, text = "write to someone@example.com now ", make_text(rng, 100)
    texts = {"a": "too short", "b": mail + text, "c": mail + text, "d": make_text(rng, 80)}
    write_texts(tmp_path / "data" / "0.tar", texts)
    steps = [{"name": "length", "args": {"min_words": 10}}, {"name": "mask_email"}]
    alone = prepare(config_of(tmp_path, {"clean": steps}, work=str(tmp_path / "w1")))
    both = prepare(config_of(tmp_path, {"clean": steps, **NEAR}, work=str(tmp_path / "w2")))
    assert {row["place"]: row["rule"] for row in drops_of(alone).values()} == {0: "length"}
    assert {row["place"]: row["rule"] for row in drops_of(both).values()} == {0: "length", 2: "exact duplicate"}
    from orchestrator.data.decoding.texts import open_tokenizer

    for manifest in (alone, both):
        told = open_tokenizer(manifest.tokenizer).decode(manifest.tokens(0).tolist())
        assert "someone@example.com" not in told
        assert text in told


def test_samples_that_are_fed_as_they_are_lose_their_copies(tmp_path):
    from tests.fakes.shards import write_tar

    members = [(f"{key}.npy", data) for key, data in (("a", b"1"), ("b", b"2"), ("c", b"1"), ("d", b"3"))]
    write_tar(tmp_path / "data" / "0.tar", members)
    config = config_of(tmp_path, {"dedup": {}, "tokens": None}, fields={"x": {"members": ["npy"]}})
    manifest = prepare(config)
    assert {row["place"]: row["partner_place"] for row in drops_of(manifest).values()} == {2: 0}
    assert manifest.places(0, "train").tolist() == [0, 1, 3]


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"dedup": {"near": {}}, "tokens": None}, "prepare.dedup.near: compares texts"),
        ({"dedup": {"prefer": ["dta"]}}, "did you mean 'data'"),
        ({"decontaminate": {}}, "there is nothing to compare with"),
        ({"decontaminate": {"files": [__file__]}}, "there is nothing to compare with"),
        ({"clean": [LANGUAGE]}, "prepare.clean.0.args.model: prepare.clean.0.args.model: there is no model /none/such"),
        ({"decontaminate": {"similarity": None, "files": ["/none/such.txt"]}}, "cannot be read"),
        ({"clean": [{"name": "gopher_qualty"}]}, "gopher_quality"),
        ({"dedup": {"near": {"threshold": 0.5, "recall": 0.999999}}}, "prepare.dedup.near"),
    ],
)
def test_what_cannot_work_is_told_by_key(tmp_path, section, words):
    from orchestrator.prepare.check import check_preparing

    config = config_of(tmp_path, section, **({"fields": {"x": {"members": ["npy"]}}} if "tokens" in section else {}))
    (problem,) = check_preparing(config)
    assert words in f"{problem.key}: {problem}"
