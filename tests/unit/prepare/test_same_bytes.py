"""Comparing leaves the same bytes whoever does which job, in which order, and how often."""

import os
import random

import pytest

from orchestrator.importing.workers import worker_processes
from orchestrator.prepare.run import prepare
from tests.fakes.copies import config_of, drops_of, make_text, published, write_varied
from tests.fakes.shards import write_texts


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    """Nothing here is about power cuts, and most of the time would be waiting for disks."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def write_everything(root):
    """Two sources that share texts, with templated pages, and benchmark questions that some texts repeat."""
    rng = random.Random(2)
    write_varied(root / "books", range(3), pages=60)
    write_varied(root / "web", range(1, 5), pages=60)
    question = make_text(rng, 13)
    (root / "questions.txt").write_text(f"{question}\nsomething that nobody says at all\n")
    texts = {f"q{i}": f"{make_text(rng, 40)} {question if i % 2 else ''} {make_text(rng, 40)}" for i in range(6)}
    texts |= {"short": "too short", "mail": f"mail me@example.com {make_text(rng, 30)}", "empty": ""}
    write_texts(root / "web" / "0000.tar", texts)


def everything(root):
    section = {
        "clean": [{"name": "length", "args": {"min_words": 20}}, {"name": "mask_email"}],
        "dedup": {"exact": True, "near": {"threshold": 0.8}, "prefer": ["web"]},
        "decontaminate": {"similarity": 0.5, "files": [str(root / "questions.txt")]},
    }
    sources = [{"path": str(root / name)} for name in ("books", "web")]
    return config_of(root, section, train=sources, split={"validation": 0.01, "test": 0.01}, segment_shards=4)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    root = tmp_path_factory.mktemp("same")
    write_everything(root)
    manifest = prepare(everything(root))
    rules = {row["rule"] for row in drops_of(manifest).values()}
    assert rules == {"length", "empty", "contaminated", "exact duplicate", "near duplicate"}
    assert len(manifest.segments) > 1
    return published(root)


class Fleet:
    """Does jobs in a random order, some of them twice, at once or when all is done."""

    def __init__(self, seed):
        self._rng, self.stages = random.Random(seed), set()

    def run_all(self, function, jobs):
        jobs = list(jobs)
        self.stages |= {function.__name__} if jobs else set()
        for job in self._rng.sample(jobs, len(jobs)):
            if self._rng.random() < 0.3:
                function(job)
            yield function(job)
        for job in jobs:
            if self._rng.random() < 0.1:
                function(job)


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_completion_gives_the_same_bytes(reference, tmp_path, seed):
    write_everything(tmp_path)
    fleet = Fleet(seed)
    prepare(everything(tmp_path), fleet.run_all)
    assert published(tmp_path) == reference
    compared = {"sign_shard", "match_bands", "score_slice", "judge_crowd"}
    assert fleet.stages == compared | {"check_content", "train_tokenizer", "prepare_shard"}


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_any_number_of_processes_gives_the_same_bytes(reference, tmp_path, workers):
    write_everything(tmp_path)
    with worker_processes(workers) as run_all:
        prepare(everything(tmp_path), run_all)
    assert published(tmp_path) == reference
