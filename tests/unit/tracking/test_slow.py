import pytest

from orchestrator.tracking.slow import find_slow


def test_one_rank_well_above_the_others_is_slow() -> None:
    assert find_slow([1.0, 1.1, 1.3, 0.9]) == [False, False, True, False]


def test_of_two_ranks_the_slower_one_is_found() -> None:
    assert find_slow([2.0, 1.0]) == [True, False]


def test_half_of_the_ranks_can_hold_up_the_other_half() -> None:
    assert find_slow([1.0, 2.0, 1.0, 2.0]) == [False, True, False, True]


@pytest.mark.parametrize("busy_s", [[0.002, 0.004], [1.0, 1.2], [1.0], []])
def test_small_differences_and_single_ranks_mean_nothing(busy_s: list[float]) -> None:
    assert not any(find_slow(busy_s))


def test_ranks_without_a_step_neither_count_nor_are_slow() -> None:
    assert find_slow([0.0, 0.0, 1.0]) == [False, False, False]
    assert find_slow([0.0, 0.0, 1.0, 2.0, 1.0]) == [False, False, False, True, False]
