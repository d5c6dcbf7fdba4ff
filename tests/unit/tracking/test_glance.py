"""Little is read of long files, and it is the right part."""

import json
import math
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.errors import DataError
from orchestrator.tracking import glance
from orchestrator.tracking.glance import last_evaluation, last_steps, sample_rows, thin_out, true_steps


def step_row(step: int, generation: int = 1, loss: float = 1.0) -> dict[str, Any]:
    return {"step": step, "generation": generation, "loss": loss, "pad": "x" * 200}


def system_row(step: int) -> dict[str, Any]:
    return {"step": step, "generation": 1, "kind": "system", "node": "a", "pad": "x" * 200}


def write(path: Path, rows: Iterable[dict[str, Any]], torn: str = "") -> Path:
    lines = (json.dumps(row) + "\n" for row in ({"format": 1}, *rows))
    path.write_text("".join(lines) + torn)
    return path


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_a_run_without_rows_has_nothing_to_show(metrics: Path) -> None:
    assert sample_rows(metrics) == last_steps(metrics, 1) == true_steps([]) == thin_out([], "loss", 5) == []
    assert last_evaluation(metrics) is None
    write(metrics, [])
    assert sample_rows(metrics) == last_steps(metrics, 1) == []


def test_of_a_short_file_every_step_is_taken(metrics: Path) -> None:
    write(metrics, [step_row(0), system_row(0), step_row(1)], torn='{"step": 2, "gen')
    assert [row["step"] for row in sample_rows(metrics)] == [0, 1]
    assert [row["step"] for row in last_steps(metrics, 50)] == [0, 1]


def test_of_a_long_file_steps_from_all_over_are_taken_and_few_bytes_read(metrics: Path) -> None:
    write(metrics, map(step_row, range(20_000)), torn='{"step": 20000')
    found = [row["step"] for row in sample_rows(metrics)]
    assert found == sorted(set(found))  # in order, none twice
    assert found[0] == 0
    assert found[-1] == 19_999
    assert max(after - before for before, after in pairwise(found)) < 20_000 / 55
    assert len(found) < glance.BLOCKS * glance.BLOCK_BYTES / len(json.dumps(step_row(0)))


def test_steps_are_found_between_the_samples_of_many_nodes(metrics: Path) -> None:
    rows = (row for step in range(40) for row in (step_row(step), *[system_row(step)] * 500))  # 125 kB a step
    write(metrics, rows)
    found = {row["step"] for row in sample_rows(metrics)}
    assert len(found) > 35
    assert [row["step"] for row in last_steps(metrics, 3)][-3:] == [37, 38, 39]


def test_the_last_evaluation_is_found_far_back(metrics: Path) -> None:
    evaluations = [{"step": step, "kind": "evaluation", "loss": 0.5} for step in (10, 20)]
    write(metrics, [*evaluations, *map(step_row, range(20, 3_000))])
    assert last_evaluation(metrics) == evaluations[1]


def test_an_evaluation_half_written_is_passed_over(metrics: Path) -> None:
    first = {"step": 10, "kind": "evaluation", "loss": 0.5}
    write(metrics, [first, step_row(11)], torn='{"step": 20, "kind": "evaluation", "lo')
    assert last_evaluation(metrics) == first


def test_a_damaged_line_is_named(metrics: Path) -> None:
    write(metrics, [step_row(0)], torn="\0\0\0\n")
    with pytest.raises(DataError, match=r"metrics\.jsonl: holds a line that is no JSON"):
        sample_rows(metrics)


def test_steps_that_were_done_again_are_left_out() -> None:
    rows = [step_row(0), step_row(1), step_row(2), step_row(3), step_row(2, 2), step_row(3, 1)]
    assert [(row["step"], row["generation"]) for row in true_steps(rows)] == [(0, 1), (1, 1), (2, 2)]


def test_a_curve_has_at_most_as_many_points_as_asked_for_and_runs_over_all_steps() -> None:
    rows = [step_row(step, loss=float(step)) for step in range(1_000)]
    assert thin_out(rows, "loss", 10) == [49.5 + 100 * point for point in range(10)]
    assert thin_out(rows[:3], "loss", 10) == [0.0, 1.0, 2.0]


def test_a_curve_shows_where_the_loss_was_no_number() -> None:
    rows = [step_row(0), step_row(1, loss=math.nan), step_row(2)]
    assert [math.isnan(point) for point in thin_out(rows, "loss", 3)] == [False, True, False]
