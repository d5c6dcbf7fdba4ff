"""Comparing leaves the same bytes whoever does which job, in which order, and how often."""

import os
import random

import pytest

from orchestrator.prepare.judging import trial
from orchestrator.prepare.run import prepare
from tests.fakes.copies import drops_of, everything, published, write_everything


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    """Nothing here is about power cuts, and most of the time would be waiting for disks."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


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
def test_any_order_of_completion_gives_the_same_bytes(reference, tmp_path, monkeypatch, seed):
    monkeypatch.setattr(trial, "DOCUMENTS_A_JOB", 64)  # many small jobs, where the reference had few
    monkeypatch.setattr(trial, "BANDS_A_JOB", 1 + seed)
    write_everything(tmp_path)
    fleet = Fleet(seed)
    prepare(everything(tmp_path), fleet.run_all)
    assert published(tmp_path) == reference
    compared = {"sign_shard", "match_bands", "score_slice", "judge_crowd"}
    assert fleet.stages == compared | {"check_content", "train_tokenizer", "prepare_shard"}
