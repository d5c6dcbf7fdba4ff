"""What the profiler leaves behind of an excerpt's steps."""

import gzip
import json

import pytest
import torch

from orchestrator.core.words import Excerpt
from orchestrator.train.profile import StepProfiler


def train_watched(excerpt: Excerpt | None, rank: int = 1) -> None:
    profiler = StepProfiler(excerpt, rank, torch.device("cpu"))
    for step in range(4):
        with profiler.watching(step):
            torch.ones(8, 8) @ torch.ones(8, 8)


def test_a_trace_holds_the_steps_that_were_asked_for_and_no_others(tmp_path):
    train_watched(Excerpt(first_step=1, stop_step=3, ranks=(1,), folder=tmp_path))
    with gzip.open(tmp_path / "rank-00001.trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") in ("user_annotation", "cpu_op")]
    assert [name for name in names if name.startswith("step")] == ["step 1", "step 2"]
    operators = json.loads((tmp_path / "rank-00001.json").read_text())["operators"]
    product = next(operator for operator in operators if operator["name"] == "aten::mm")
    assert product["calls"] == 2
    assert product["self_s"] > 0
    assert [operator["self_s"] for operator in operators] == sorted((o["self_s"] for o in operators), reverse=True)


def test_a_profiler_that_is_closed_early_lets_another_one_begin(tmp_path):
    """A process can have one at a time."""
    broken = StepProfiler(Excerpt(first_step=0, stop_step=9, folder=tmp_path), 1, torch.device("cpu"))
    with broken.watching(0):
        pass
    broken.close()
    assert not list(tmp_path.iterdir())
    train_watched(Excerpt(first_step=1, stop_step=3, folder=tmp_path))
    assert (tmp_path / "rank-00001.json").exists()


@pytest.mark.parametrize("ranks", [(0, 2), ()])
def test_ranks_that_were_not_asked_for_leave_nothing(tmp_path, ranks):
    train_watched(Excerpt(first_step=0, stop_step=2, ranks=ranks, folder=tmp_path))
    assert not list(tmp_path.iterdir())
