"""What is reserved on a machine of which this process may use a part only."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from launch.checks.limits import Limits, count_processors, usable_memory
from launch.plan import show_plan
from launch.screen import Screen

CONFIGS = Path(__file__).parents[3] / "configs"
UNLIMITED = Limits(memory_bytes=None, cpus=None, processes=None)


@pytest.fixture
def one_processor() -> Iterator[None]:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    yield
    os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(("quota", "counted"), [(0.5, 1), (1.0, 1), (1.9, 1), (None, len(os.sched_getaffinity(0)))])
def test_a_quota_is_counted_in_whole_processors_and_at_least_one(quota: float | None, counted: int) -> None:
    assert count_processors(Limits(memory_bytes=None, cpus=quota, processes=None)) == counted


def test_a_quota_above_what_is_allowed_gives_no_more(one_processor: None) -> None:
    assert count_processors(UNLIMITED) == 1
    assert count_processors(Limits(memory_bytes=None, cpus=64.0, processes=None)) == 1


def test_memory_is_that_of_the_machine_or_of_the_limit() -> None:
    total = psutil.virtual_memory().total
    assert usable_memory(UNLIMITED) == total
    assert usable_memory(Limits(memory_bytes=2**30, cpus=None, processes=None)) == 2**30
    assert usable_memory(Limits(memory_bytes=total + 1, cpus=None, processes=None)) == total


def test_a_plan_gives_ranks_what_this_process_may_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], one_processor: None
) -> None:
    sets = ["cluster.ranks_per_node=1", "cluster.cpus_per_rank=auto", f"data.work={tmp_path}"]
    show_plan(CONFIGS / "quickstart.yaml", [], sets, None, True, Screen())
    [world] = json.loads(capsys.readouterr().out)["worlds"]
    assert world["batch"]["cpus_per_rank"] == 1
