import json

import numpy as np
import pytest

from orchestrator.core.errors import DataError
from orchestrator.data.ordering.skips import Skips
from orchestrator.storage.lines import LineFile

SKIPS = Skips(frozenset({4, 9}), frozenset({(2, 17), (2, 15), (7, 50)}))
HOLE = {"step": 2, "position": 17, "sample": "pictures/0.tar/a", "reason": "cut short"}


def write(path, *rows, head=None):
    with LineFile(path, head={"format": 1} if head is None else head) as file:
        file.append(rows)
    return path


def test_a_voided_step_leaves_out_all_its_positions():
    assert SKIPS.of(4, np.arange(32, 40)).tolist() == [True] * 8


def test_a_hole_leaves_out_its_position_only():
    assert SKIPS.of(2, np.array([17, 12, 15, 50])).tolist() == [True, False, True, False]


def test_a_hole_counts_in_its_own_step_only():
    assert not SKIPS.of(3, np.array([15, 17, 50])).any()
    assert not Skips().of(0, np.arange(8)).any()


def test_a_checkpoint_knows_the_skips_of_its_steps_only():
    assert SKIPS.before(7) == Skips(frozenset({4}), frozenset({(2, 17), (2, 15)}))
    assert SKIPS.before(10) == SKIPS


def test_skips_are_read_from_rows_and_a_repeated_row_counts_once(tmp_path):
    later = {"step": 7, "position": 50, "sample": "s/1.tar/b", "reason": "r"}
    path = write(tmp_path / "skips.jsonl", HOLE, {"step": 4, "voided": True}, later, HOLE)
    assert Skips.load(path) == Skips(frozenset({4}), frozenset({(2, 17), (7, 50)}))


def test_a_torn_last_line_was_never_acknowledged_and_does_not_count(tmp_path):
    path = write(tmp_path / "skips.jsonl", HOLE)
    with path.open("a") as file:
        file.write(json.dumps({"step": 3, "position": 1})[:-3])
    assert Skips.load(path).holes == {(2, 17)}


def test_a_run_without_a_file_has_no_skips(tmp_path):
    assert Skips.load(tmp_path / "skips.jsonl") == Skips()


@pytest.mark.parametrize(
    "row",
    [{"step": 1}, {"step": -1, "voided": True}, {"step": 1, "position": -1}, {"step": 1.5, "position": 2},
     {"step": True, "position": 2}, {"position": 2}, {"step": 1, "voided": 1}],
)  # fmt: skip
def test_a_row_of_other_content_is_refused_by_name(tmp_path, row):
    path = write(tmp_path / "skips.jsonl", HOLE, row)
    with pytest.raises(DataError, match=r"skips.jsonl: expected .* found"):
        Skips.load(path)


def test_a_file_of_another_format_is_refused(tmp_path):
    path = write(tmp_path / "skips.jsonl", HOLE, head={"format": 2})
    with pytest.raises(DataError, match="format"):
        Skips.load(path)
    (tmp_path / "skips.jsonl").write_text("no json\n")
    with pytest.raises(DataError, match="JSON"):
        Skips.load(tmp_path / "skips.jsonl")
