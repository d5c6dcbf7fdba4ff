"""`longhaul evaluate` on a real run: its numbers are those of training, and it leaves files and pictures."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from tests.fakes.coloured_pictures import write_pictures
from tests.integration.conftest import Bench, picture_config, set_up

pytestmark = pytest.mark.cluster
METRICS = ["accuracy", "precision", "recall", "f1", "roc_auc", "confusion_matrix"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("evaluate-bench")
    write_pictures(folder / "pictures", shards=10)
    config = picture_config()
    config["data"] |= {"split": {"validation": 0.2, "test": 0.2}}
    config["train"] |= {"epochs": None, "steps": 12}
    config |= {"evaluate": {"every_steps": 4, "metrics": METRICS}, "checkpoint": {"every_steps": 4}}
    with set_up(folder, config) as bench:
        done = bench.run("trained")
        assert done.returncode == 0, done.stdout + done.stderr
        yield bench


def evaluate(bench: Bench, *options: str) -> dict[str, Any]:
    done = bench.longhaul("evaluate", "trained", "--json", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def validations(bench: Bench) -> dict[int, dict[str, Any]]:
    lines = (bench.path("trained") / "metrics.jsonl").read_text().splitlines()
    return {row["step"]: row for row in map(json.loads, lines) if row.get("kind") == "evaluation"}


def test_the_same_world_gives_the_numbers_of_training(bench: Bench) -> None:
    row, told = validations(bench)[8], evaluate(bench, "--checkpoint", "8", "--ranks", "2")
    assert (told["step"], told["ranks"], told["split"]) == (8, 2, "validation")
    assert told["confusion_matrix"] == row["confusion_matrix"]
    assert told["metrics"] == {name: row[name] for name in ("loss", "samples", *METRICS[:-1])}


@pytest.mark.long
def test_one_rank_and_the_best_checkpoint(bench: Bench) -> None:
    rows = validations(bench)
    best = min(sorted(rows, reverse=True), key=lambda step: rows[step]["loss"])
    told = evaluate(bench, "--checkpoint", "best")
    assert (told["step"], told["ranks"]) == (best, 1)
    assert told["metrics"]["loss"] == pytest.approx(rows[best]["loss"], rel=2e-5)
    assert told["metrics"]["f1"] == rows[best]["f1"]


def test_tables_files_and_pictures_of_the_test_split(bench: Bench) -> None:
    done = bench.longhaul("evaluate", "trained", "--split", "test")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(word in done.stdout for word in ("roc_auc", "precision", "samples", "test-12.json"))
    folder = bench.path("trained") / "evaluations"
    told = json.loads((folder / "test-12.json").read_text())
    assert told["format"] == 1
    assert told["metrics"]["samples"] == sum(one["samples"] for one in told["classes"]) > 0
    for what in ("confusion_matrix", "roc"):
        with Image.open(folder / f"test-12-{what}.png") as picture:
            assert min(picture.size) > 500
    part = evaluate(bench, "--split", "test", "--max-batches", "1")
    assert part["metrics"]["samples"] == 7
    assert (folder / "test-12-first-1.json").exists()
    assert json.loads((folder / "test-12.json").read_text()) == told


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--checkpoint", "5"], "the step of one that there is: 4, 8, 12"),
        (["--split", "train"], "must be validation or test"),
        (["--ranks", "8"], "too small for 8 ranks"),
    ],
)
def test_what_is_not_there_is_bad_input(bench: Bench, options: list[str], said: str) -> None:
    done = bench.longhaul("evaluate", "trained", *options)
    assert done.returncode == 2
    assert said in done.stderr
