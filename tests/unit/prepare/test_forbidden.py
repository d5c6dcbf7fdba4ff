"""Training texts that repeat a text of another source, or are like one: it is compared with and never fed."""

import json
import os
import random

import pytest

from orchestrator.core.errors import DataError
from orchestrator.prepare.explain import explain
from orchestrator.prepare.funnel import count_funnels
from orchestrator.prepare.run import prepare
from orchestrator.storage import hashes
from orchestrator.storage.workplace import WorkPlace
from tests.fakes.copies import config_of, drops_of, make_pages, make_text, named_drops, shingles, similarity_of, vary
from tests.fakes.shards import LOCAL, run_backwards, write_tar, write_texts


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


def write_likes(root):
    """Documents, and in a folder of shards and a .jsonl texts that differ from some of them in so many words."""
    rng = random.Random(6)
    texts = {f"d{i:02d}": make_text(rng) for i in range(60)}
    changed = {f"o{i:02d}": vary(rng, texts[f"d{i:02d}"], i % 10) for i in range(40)}
    write_texts(root / "elsewhere" / "0.tar", dict(list(changed.items())[:20]))
    write_texts(root / "elsewhere" / "sub" / "1.tar", dict(list(changed.items())[20:30]))
    lines = [json.dumps({"text": text, "id": key}) for key, text in list(changed.items())[30:]]
    (root / "more.jsonl").write_text("\n".join(lines))
    for shard in range(3):
        write_texts(root / "data" / f"{shard}.tar", dict(list(texts.items())[20 * shard : 20 * shard + 20]))
    told = {f"elsewhere/0.tar:{key}": text for key, text in list(changed.items())[:20]}
    told |= {f"elsewhere/sub/1.tar:{key}": text for key, text in list(changed.items())[20:30]}
    return texts, told | {f"more.jsonl:{i}": text for i, text in enumerate(list(changed.values())[30:], 1)}


def unlike(root, threshold=0.5, **data):
    """Runs of 64 words, so that it is similarity that finds them."""
    files = [str(root / "elsewhere"), str(root / "more.jsonl")]
    return config_of(root, {"decontaminate": {"similarity": threshold, "files": files, "ngram": 64}}, **data)


def likes_of(manifest):
    names = manifest.shard_names()
    return {
        manifest.keys(ordinal)[place]: (row["reason"], row["score"])
        for (ordinal, place), row in drops_of(manifest).items()
        if row["score"] is not None and names[ordinal]
    }


def find_like(text, outside, threshold):
    """The first that is so similar, and how similar."""
    alike = ((name, similarity_of(text, other)) for name, other in outside.items())
    return next(((name, pytest.approx(score)) for name, score in alike if score >= threshold), None)


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_a_document_goes_that_is_like_one_of_another_source_by_exact_similarity(tmp_path, threshold):
    texts, outside = write_likes(tmp_path)
    found = likes_of(prepare(unlike(tmp_path, threshold)))
    assert found == {key: like for key, text in texts.items() if (like := find_like(text, outside, threshold))}
    assert 10 < len(found) < 40


def test_a_tested_document_may_be_like_one_of_another_source(tmp_path):
    texts, outside = write_likes(tmp_path)
    manifest = prepare(unlike(tmp_path, split={"validation": 0.3}))
    tested = {key for shard in range(3) for key in manifest.keys(shard, manifest.places(shard, "validation"))}
    alike = {key: like for key, text in texts.items() if (like := find_like(text, outside, 0.5))}
    assert likes_of(manifest) == {key: like for key, like in alike.items() if key not in tested}
    assert tested & alike.keys()


def test_pages_of_one_template_are_compared_with_those_of_another_source_as_all_pairs_would_be(tmp_path):
    pages = make_pages(random.Random(9), 600)
    own, outside = {f"p{i}": p for i, p in enumerate(pages[:300])}, {f"o{i}": p for i, p in enumerate(pages[300:])}
    write_texts(tmp_path / "data" / "0.tar", own | {"other": make_text(random.Random(10))})
    write_texts(tmp_path / "elsewhere" / "0.tar", outside)
    config = config_of(
        tmp_path, {"decontaminate": {"similarity": 0.9, "ngram": 64, "files": [str(tmp_path / "elsewhere/*.tar")]}}
    )
    found = likes_of(prepare(config))
    told = [shingles(text) for text in outside.values()]
    alike = {
        key
        for key, cut in ((key, shingles(text)) for key, text in own.items())
        if any(len(cut & other) >= 0.9 * len(cut | other) for other in told)
    }
    assert 50 < len(alike) < 290
    assert found.keys() <= alike
    assert len(found) >= 0.95 * len(alike)


def test_what_is_like_another_source_is_the_same_in_any_order_and_while_training(tmp_path):
    write_likes(tmp_path)
    calm = prepare(unlike(tmp_path))
    first = unlike(tmp_path, work=str(tmp_path / "ahead"), segment_shards=1)
    prepare(first, most=1)
    assert likes_of(prepare(first, run_backwards)) == likes_of(calm) != {}


def test_what_is_like_another_source_is_counted_and_explained_with_both_texts(tmp_path):
    texts, outside = write_likes(tmp_path)
    manifest = prepare(unlike(tmp_path))
    (funnel,) = count_funnels(manifest)
    assert funnel.dropped["contaminated"] == len(drops_of(manifest)) == 60 - funnel.kept
    for key, name in (("d03", "elsewhere/0.tar:o03"), ("d32", "more.jsonl:3"), ("d21", "elsewhere/sub/1.tar:o21")):
        (said,) = explain(unlike(tmp_path), key, texts=True)
        assert (said.rule, said.reason, said.partner) == ("contaminated", "", name)
        assert said.score == pytest.approx(similarity_of(texts[key], outside[name]))
        assert said.text == texts[key]
        assert outside[name] in said.partner_text


def test_a_change_in_a_shard_of_a_folder_makes_another_preparation(tmp_path):
    write_likes(tmp_path)
    first = prepare(unlike(tmp_path))
    write_texts(tmp_path / "elsewhere" / "sub" / "1.tar", {"o": "nothing of what was there before"})
    assert prepare(unlike(tmp_path)).ids != first.ids


def test_a_large_file_is_hashed_again_when_its_time_changes_only(tmp_path, monkeypatch):
    monkeypatch.setattr(hashes, "LARGE_BYTES", 10)
    file, work = tmp_path / "model.bin", WorkPlace.at(tmp_path / "work")
    file.write_bytes(b"0123456789abcdef")
    first, stat = hashes.hash_file(str(file), work, LOCAL), file.stat()
    file.write_bytes(b"0123456789ABCDEF")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert hashes.hash_file(str(file), work, LOCAL) == first
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert hashes.hash_file(str(file), work, LOCAL) != first
