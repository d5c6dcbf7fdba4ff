"""The same gradient and the same validation on any world and at any ZeRO stage, for every task.

A step of plain gradient descent at rate 1 ends at the start less the gradient; batches do not divide evenly. One gang
of five goes through all cases once, so that its members have been in worlds of other stages before. What is compared
with is one process that computes the whole batch at once."""

from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.checkpoint.fragments import MASTER
from orchestrator.checkpoint.reader import open_checkpoint
from orchestrator.core.news import EvaluationNews
from orchestrator.prepare.run import prepare
from orchestrator.train.engine import warm
from tests.fakes.gang import run_gang
from tests.fakes.one_of_each import TASKS, config_of, write_data
from tests.fakes.small_runs import train_small

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.long,
]  # a minute; test_engine.py and test_evaluation.py show the same in small

WORLDS = range(1, 6)
BATCH = 7  # 7 = 4 + 3 = 3 + 2 + 2 = 2 + 2 + 2 + 1 = 2 + 2 + 1 + 1 + 1
# Every world and every stage with every task, though not each with each.
CASES = [(task, (number + i) % 4, world) for i, task in enumerate(TASKS) for number, world in enumerate(WORLDS)]
SKETCH = {"steps": 1, "global_batch": BATCH, "clip_norm": None}


def name_of(task: str, stage: int, world: int) -> str:
    return f"{task}-stage{stage}-world{world}"


def run_all(rank: int, size: int, store: Any, folder: Path, manifests: dict[str, Any]) -> dict[str, Any]:
    warm("cpu", threads=1)
    results = {}
    for task in TASKS:
        for stage, world, micro_batch in [(0, 1, BATCH), *((s, w, 2) for t, s, w in CASES if t == task)]:
            name = name_of(task, stage, world) if micro_batch < BATCH else task
            if rank < world:
                config = config_of(task, folder, stage, SKETCH)
                results[name] = train_small(
                    rank,
                    world,
                    store,
                    config,
                    folder / "runs" / name,
                    manifest=manifests[task],
                    micro_batch=micro_batch,
                )[1]
    return results


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """Of each case the sink of rank 0, and in which folder the checkpoints are."""
    folder = tmp_path_factory.mktemp("worlds")
    manifests = {}
    for task in TASKS:
        write_data(task, folder)
        manifests[task] = prepare(config_of(task, folder, 0, SKETCH))
    return run_gang(max(WORLDS), run_all, folder, manifests, deadline_s=280.0)[0], folder


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = folder.iterdir()
    reader = open_checkpoint(path)
    try:
        return {
            name: reader.read(name, MASTER, 0, info.numel).double()
            for name, info in reader.tensors.items()
            if info.kind == "trainable"
        }
    finally:
        reader.close()


@pytest.mark.parametrize(("task", "stage", "world"), CASES, ids=[name_of(*case) for case in CASES])
def test_gradient_and_validation_are_those_of_the_whole_batch(seen, task, stage, world):
    sinks, folder = seen
    whole, here = weights_of(folder / "runs" / task), weights_of(folder / "runs" / name_of(task, stage, world))
    assert here.keys() == whole.keys()
    largest = max(float(values.abs().max()) for values in whole.values())
    for name, values in here.items():
        assert float((values - whole[name]).abs().max()) < 2e-6 * max(1.0, largest), name
    expected, found = (sinks[name].of(EvaluationNews)[0].metrics for name in (task, name_of(task, stage, world)))
    assert found == pytest.approx(expected, rel=2e-5)
    assert found["loss"] > 0


@pytest.mark.parametrize("task", TASKS)
def test_the_step_moved_the_weights(seen, task):
    """Else the test above compares what never changed."""
    sinks, _ = seen
    (step,) = sinks[task].rows()
    assert step["grad_norm"] > 1e-3
    assert step["applied"]
