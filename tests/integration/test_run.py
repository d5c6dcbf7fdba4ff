"""One whole run: trained, proven, and audited by a reader that shares no code with it."""

import json
import math
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import tokenizers

from tests.integration.conftest import STEPS, Bench


def test_a_run_trains_and_says_so(bench: Bench, unbroken: str) -> None:
    losses = bench.losses(unbroken)
    assert len(losses) == STEPS
    assert abs(losses[0] - math.log(300)) < 0.5
    assert losses[-1] < losses[0] - 0.3
    row = bench.rows(unbroken)[0]
    names = {"step", "loss", "world_size", "generation", "tokens", "step_s", "data_wait_s", "applied"}
    assert names <= row.keys()
    assert row["world_size"] == 2
    [done] = bench.events(unbroken, "done")
    assert (done["exit_code"], done["step"]) == (0, STEPS)


def test_the_run_directory_holds_what_was_decided_and_why(bench: Bench, unbroken: str) -> None:
    plan = json.loads((bench.path(unbroken) / "plan.json").read_text())
    decided = {decision["key"]: decision for decision in plan["decisions"]}
    assert {"data.run_samples", "train.micro_batch", "cluster.device", "tracking.wandb.mode"} <= decided.keys()
    assert all(decision["why"] for decision in decided.values())
    lines = (bench.path(unbroken) / "config.yaml").read_text().splitlines()
    anew = {"lanes: auto", "threads: auto", "micro_batch: auto", "cpus: auto"}  # for every unit, or on every rank
    anew |= {"snapshot_every: auto", "step_timeout_s: auto"}  # by what steps and snapshots take
    by_what_there_is = {"name: auto", "attention: auto", "metrics: auto"}  # task and model stand beside them
    assert {line.strip() for line in lines if "auto" in line} <= anew | by_what_there_is


def test_verify_proves_the_run(bench: Bench, unbroken: str) -> None:
    proof = bench.longhaul("verify", unbroken)
    assert proof.returncode == 0, proof.stderr
    assert f"{STEPS} steps fed what the run's definition says" in proof.stdout


def test_the_ledger_agrees_with_an_independent_reader(bench: Bench, unbroken: str) -> None:
    """Standard library tarfile and the tokenizer file alone: every key exists, every span lies inside its document,
    every sequence has its length, and in one pass no token is trained twice."""
    printed = bench.longhaul("ledger", unbroken, "--steps", f"0:{STEPS}", "--json")
    assert printed.returncode == 0, printed.stderr
    lengths = document_lengths(bench)
    trained: dict[tuple[str, int], int] = {}
    for line in printed.stdout.splitlines():
        row = json.loads(line)
        for key, first, count in row["keys"]:
            assert first >= 0
            assert first + count <= lengths[key]
        assert sum(count for _, _, count in row["keys"]) == 10 * 33
        for key, token in inputs_of(row["keys"]):
            trained[key, token] = trained.get((key, token), 0) + 1
    assert max(trained.values()) == 1
    assert len(trained) == STEPS * 10 * 32


def inputs_of(keys: list[tuple[str, int, int]]) -> list[tuple[str, int]]:
    """The input tokens of each sequence: all but its last."""
    flat = [(key, first + i) for key, first, count in keys for i in range(count)]
    return [token for start in range(0, len(flat), 33) for token in flat[start : start + 32]]


def document_lengths(bench: Bench) -> dict[str, int]:
    [path] = (bench.folder / "work").rglob("tokenizer.json")
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    lengths = {}
    for shard in sorted((bench.folder / "shards").glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".txt"):
                    file = tar.extractfile(member)
                    assert file is not None
                    text = file.read().decode()
                    key = f"shards/{shard.name}/{member.name.removesuffix('.txt')}"
                    lengths[key] = len(tokenizer.encode(text).ids) + 1  # and the end mark
    return lengths


def test_wandb_has_the_offline_run(bench: Bench, unbroken: str) -> None:
    [folder] = (bench.path(unbroken) / "wandb").glob("offline-run-*")
    [file] = folder.glob("*.wandb")
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    told = subprocess.run(inspect, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "train/loss" in told
    assert "validation/perplexity" in told


@pytest.mark.cluster
def test_a_token_fed_wrongly_is_noticed(bench: Bench, unbroken: str, tmp_path: Path) -> None:
    """Train on sidecars with one changed token, then put the right one back: the ledger says what was fed."""
    sidecars = sorted((bench.folder / "work").rglob("*.tokens"))
    right = {path: path.read_bytes() for path in sidecars}
    try:
        for path, data in right.items():
            path.write_bytes(bytes(byte ^ (i % 2 == 0) for i, byte in enumerate(data)))  # each token its neighbour
        assert (
            bench.run("wrong", "train.steps=3", "schedule.warmup_steps=1", "evaluate.every_steps=null").returncode == 0
        )
    finally:
        for path, data in right.items():
            path.write_bytes(data)
    proof = bench.longhaul("verify", "wrong")
    if proof.returncode == 0:
        pytest.fail("verify believed a run that was fed other tokens")
    assert proof.returncode == 4
    assert "order_digest" in proof.stderr
