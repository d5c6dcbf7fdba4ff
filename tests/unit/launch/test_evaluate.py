"""`longhaul evaluate`, but for the evaluation itself: what is refused, what is written, what is shown."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from launch.evaluate import EvaluateWish, check_split, choose_world, write
from launch.screens.scores import draw_evaluation
from orchestrator.core.errors import BadInput, DataError
from orchestrator.tracking.rundir import RunDir
from orchestrator.train.evaluation.classes import ClassScores, Curve
from orchestrator.train.evaluation.scores import describe, notes_of, values_of
from orchestrator.train.evaluation.validation import Evaluation
from tests.fakes.small_runs import SmallManifest, small_config

METRICS = ("accuracy", "precision", "recall", "f1", "roc_auc", "confusion_matrix")
LINE = np.array([0.0, 0.5, 1.0], np.float32)


def evaluation_of(classes: int) -> Evaluation:
    """Ten samples of every class but the last, of which nine are found and one is taken for the next."""
    counts = [10] * (classes - 1) + [0]
    matrix = [[9 * (i == j) + (j == i + 1) if i < classes - 1 else 0 for j in range(classes)] for i in range(classes)]
    each: list[float | None] = [0.9] * (classes - 1) + [None]
    scores = ClassScores(
        counts=counts, accuracy=0.9, precision=each, recall=each, f1=each, roc_auc=each, matrix=matrix,
        curves=[Curve(of_class=number, false_rates=LINE, true_rates=np.sqrt(LINE)) for number in range(classes - 1)],
    )  # fmt: skip
    values = {"loss": 0.25, "samples": sum(counts)} | values_of(scores, METRICS, "macro")
    return Evaluation(values=values, notes=tuple(notes_of(scores, METRICS, "test", [])), scores=scores)


def write_all(folder: Path, evaluation: Evaluation, **wish: Any) -> list[Path]:
    told = {"format": 1, "run": "r", "step": 60} | describe(evaluation.values, evaluation.scores, [])
    return list(write(RunDir(folder), told, evaluation, [], EvaluateWish(split="test", **wish)))


def test_a_split_that_the_run_has_not_kept_is_refused() -> None:
    with pytest.raises(BadInput, match=r"--split test: data.split.test is 0 in this run") as caught:
        check_split(small_config(), SmallManifest.make(), "test")
    assert "data.split.test=0.1" in str(caught.value)
    with pytest.raises(BadInput, match="must be validation or test"):
        check_split(small_config(), SmallManifest.make(), "train")


def test_an_empty_split_is_refused() -> None:
    config = small_config(data={"split": {"validation": 0.1, "test": 0.1}})
    manifest = SmallManifest.make()
    check_split(config, manifest, "validation")
    for shard in manifest.shards:
        shard.documents.clear()
    with pytest.raises(DataError, match="split 'test' is empty"):
        check_split(config, manifest, "test")


def test_the_cpu_takes_one_process_unless_more_are_wished() -> None:
    config = small_config()
    assert choose_world(config, None) == ("cpu", 1)
    assert choose_world(config, 3) == ("cpu", 3)


def test_fp16_is_not_evaluated_without_a_gpu() -> None:
    config = small_config(train={"precision": "fp16"}, cluster={"device": "auto"})
    with pytest.raises(BadInput, match="only GPUs"):
        choose_world(config, None)


@pytest.mark.parametrize("classes", [3, 100])
def test_numbers_and_pictures_are_written(tmp_path: Path, classes: int) -> None:
    paths = write_all(tmp_path, evaluation_of(classes))
    assert [path.name for path in paths] == ["test-60.json", "test-60-confusion_matrix.png", "test-60-roc.png"]
    told = json.loads(paths[0].read_text())
    assert told["metrics"]["f1"] == pytest.approx(0.9)
    assert "confusion_matrix" not in told["metrics"]
    assert told["confusion_matrix"][0][:2] == [9, 1]
    assert told["absent"] == [classes - 1]
    assert told["classes"][-1] == {
        "class": classes - 1, "samples": 0, "precision": None, "recall": None, "f1": None, "roc_auc": None,
    }  # fmt: skip
    for path in paths[1:]:
        with Image.open(path) as picture:
            assert np.unique(np.asarray(picture.convert("L"))).size > 20  # something is drawn


def test_a_part_never_takes_the_place_of_the_whole(tmp_path: Path) -> None:
    evaluation = Evaluation(values={"loss": 0.5, "r2": 0.4})
    assert [path.name for path in write_all(tmp_path, evaluation, max_batches=5)] == ["test-60-first-5.json"]


def test_tables_fit_narrow_terminals_and_show_the_worst_of_many_classes() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    console.print(draw_evaluation(evaluation_of(100), ["setosa [red]"]), highlight=False)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.split() == ["f1", "0.9"] for line in lines)
    assert any("0 (setosa [red])" in line for line in lines)
    assert "and 79 classes with a higher f1" in lines
    assert lines[-1].startswith("test has no sample of class 99")
