"""Shards of texts that copy and vary one another, and what preparing them leaves: for tests of comparing."""

import random
import tarfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from orchestrator.config.run import RunConfig
from orchestrator.data.shards.manifest import Manifest
from orchestrator.data.shards.split import SPLITS
from tests.fakes.shards import make_config, read_tree, write_texts

WORDS = [f"word{i}" for i in range(3000)]
NEAR = {"dedup": {"exact": True, "near": {"threshold": 0.8}}}
Sample = tuple[int, int]  # ordinal and place


def make_text(rng: random.Random, words: int = 120) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def vary(rng: random.Random, text: str, changes: int) -> str:
    """Some of its words are others."""
    words = text.split()
    for place in rng.sample(range(len(words)), changes):
        words[place] = rng.choice(WORDS)
    return " ".join(words)


def make_varied(rng: random.Random, count: int, told: list[str]) -> dict[str, str]:
    """Texts by key; a third are copies of `told` ones, some of them changed in a word or more. They are told then."""
    texts = {}
    for i in range(count):
        kind = rng.random() if told else 1.0
        if kind < 0.1:
            text = rng.choice(told).replace(" ", "  ", 1)  # the same but for whitespace
        elif kind < 0.35:
            text = vary(rng, rng.choice(told), rng.choice([1, 2, 3, 5, 8]))
        else:
            text = make_text(rng)
        told.append(text)
        texts[f"d{i:03d}"] = text
    return texts


def make_pages(rng: random.Random, count: int) -> list[str]:
    """Of one template, alike to a degree that differs: in hundreds they are judged as a crowd."""
    frame = make_text(rng, 100)
    return [f"{frame} {make_text(rng, rng.choice([4, 8, 12, 16]))}" for _ in range(count)]


def write_varied(folder: Path, shards: Sequence[int], documents: int = 25, seed: int = 5, pages: int = 0) -> None:
    """Shards by number, each of so many documents and pages; the same whichever others are written."""
    rng = random.Random(seed)
    told: list[str] = []
    templated = iter(make_pages(rng, (max(shards) + 1) * pages))
    for shard in range(max(shards) + 1):
        texts = make_varied(rng, documents, told)
        texts |= {f"p{i:03d}": text for i, text in enumerate(islice(templated, pages))}
        if shard in shards:
            write_texts(folder / f"{shard:04d}.tar", texts)


def config_of(root: Path, prepare: dict[str, Any] | None = None, **data: Any) -> RunConfig:
    """As make_config, with other keys in the sections prepare and data."""
    config = make_config(root).model_dump(mode="json")
    config["data"] |= data
    config["prepare"] |= prepare or {}
    if "fields" in data:
        config["task"] = {"name": "image_classification"}
    return RunConfig.model_validate(config)


def write_everything(root: Path, documents: int = 25) -> None:
    """Two sources that share texts, with templated pages; benchmark questions that some texts repeat, and documents of
    elsewhere that some texts and pages are like."""
    rng = random.Random(2)
    write_varied(root / "books", range(3), documents, pages=60)
    write_varied(root / "web", range(1, 5), documents, pages=60)
    question = make_text(rng, 13)
    (root / "questions.txt").write_text(f"{question}\nsomething that nobody says at all\n")
    texts = {f"q{i}": f"{make_text(rng, 40)} {question if i % 2 else ''} {make_text(rng, 40)}" for i in range(6)}
    texts |= {f"like{i}": make_text(rng) for i in range(4)}
    pages = make_pages(rng, 500)
    texts |= {f"page{i:03d}": page for i, page in enumerate(pages[:300])}
    elsewhere = [*(vary(rng, texts[f"like{i}"], 1) for i in range(4)), *pages[300:]]
    write_texts(root / "elsewhere" / "0.tar", {f"e{i:03d}": text for i, text in enumerate(elsewhere)})
    texts |= {"short": "too short", "mail": f"mail me@example.com {make_text(rng, 30)}", "empty": ""}
    write_texts(root / "web" / "0000.tar", texts)


def everything(root: Path) -> RunConfig:
    """Compares what write_everything wrote in every way there is."""
    section = {
        "clean": [{"name": "length", "args": {"min_words": 20}}, {"name": "mask_email"}],
        "dedup": {"exact": True, "near": {"threshold": 0.8}, "prefer": ["web"]},
        "decontaminate": {"similarity": 0.9, "files": [str(root / "questions.txt"), str(root / "elsewhere")]},
    }
    sources = [{"path": str(root / name)} for name in ("books", "web")]
    return config_of(root, section, train=sources, split={"validation": 0.1, "test": 0.05}, segment_shards=4)


def published(root: Path) -> dict[str, bytes]:
    """What preparing leaves, without caches that know paths and times of this copy, and what the killed left."""
    return {
        name: data
        for name, data in read_tree(root / "work").items()
        if not name.startswith(("index", "contents", "hashes")) and "seen-" not in name and not name.endswith(".part")
    }


def drops_of(manifest: Manifest) -> dict[Sample, dict[str, Any]]:
    rows = [row for number in range(len(manifest.segments)) for row in manifest.drops(number).to_pylist()]
    return {(row["ordinal"], row["place"]): row for row in rows}


def named_drops(manifest: Manifest) -> dict[str, tuple[Any, ...]]:
    """shard/key -> rule, partner's shard/key, score: the same whatever ordinals the shards have."""

    def name(ordinal: int | None, place: int | None) -> str:
        return "" if ordinal is None or place is None else f"{names[ordinal]}/{manifest.keys(ordinal)[place]}"

    names = manifest.shard_names()
    return {
        name(*sample): (row["rule"], name(row["partner_ordinal"], row["partner_place"]), row["score"])
        for sample, row in drops_of(manifest).items()
    }


def texts_of(manifest: Manifest, root: Path) -> dict[Sample, str]:
    texts = {}
    for ordinal, name in enumerate(manifest.shard_names()):
        with tarfile.open(root / name) as tar:
            members = [member for member in tar if member.name.endswith(".txt")]
            texts |= {(ordinal, place): tar.extractfile(one).read().decode() for place, one in enumerate(members)}
    return texts


def splits_of(manifest: Manifest) -> dict[Sample, str]:
    """Of kept samples."""
    return {
        (ordinal, place): split
        for split in SPLITS
        for ordinal in range(manifest.num_shards)
        for place in manifest.places(ordinal, split).tolist()
    }


def shingles(text: str) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def similarity_of(one: str, other: str) -> float:
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)
