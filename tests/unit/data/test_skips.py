import numpy as np
import pytest

from orchestrator.core.errors import DataError
from orchestrator.data.skips import Skips
from orchestrator.storage.publish import publish_json

SKIPS = Skips(frozenset({4, 9}), frozenset({(2, 17), (2, 15), (7, 50)}))


def test_a_voided_step_leaves_out_all_its_positions():
    assert SKIPS.of(4, np.arange(32, 40)).tolist() == [True] * 8


def test_a_hole_leaves_out_its_position_only():
    assert SKIPS.of(2, np.array([17, 12, 15, 50])).tolist() == [True, False, True, False]


def test_a_hole_counts_in_its_own_step_only():
    assert not SKIPS.of(3, np.array([15, 17, 50])).any()
    assert not Skips().of(0, np.arange(8)).any()


def test_skips_are_the_same_after_a_round_trip(tmp_path):
    SKIPS.save(tmp_path / "skips.json")
    assert Skips.load(tmp_path / "skips.json") == SKIPS


@pytest.mark.parametrize(
    "wrong",
    [{}, {"voided": [1]}, {"voided": [-1], "holes": []}, {"voided": [], "holes": [3]}, {"voided": [True], "holes": []},
     {"voided": [], "holes": [[1, 2, 3]]}, {"voided": [1.5], "holes": []}],
)  # fmt: skip
def test_a_file_of_other_content_is_refused_by_name(tmp_path, wrong):
    publish_json(tmp_path / "skips.json", {"format": 1, **wrong})
    with pytest.raises(DataError, match=r"skips.json: expected"):
        Skips.load(tmp_path / "skips.json")
