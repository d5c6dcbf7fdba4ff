from typing import Any

import pytest

from orchestrator.tracking.goodput import goodput, held_seconds


def events(*told: tuple[float, str]) -> list[dict[str, Any]]:
    return [{"t": t, "event": event} for t, event in told]


def test_a_run_that_lives_is_held_until_now() -> None:
    assert held_seconds(events((100.0, "claimed"), (110.0, "started")), until=130.0) == 30.0


def test_the_time_between_a_stop_and_a_resume_does_not_count() -> None:
    told = events((100.0, "claimed"), (150.0, "stopped"), (900.0, "claimed"), (920.0, "done"))
    assert held_seconds(told, until=5_000.0) == 70.0


def test_the_time_of_a_dead_controller_counts_until_the_next_claim() -> None:
    told = events((100.0, "claimed"), (150.0, "restarting"), (151.0, "claimed"), (400.0, "claimed"))
    assert held_seconds(told, until=500.0) == 400.0


def test_nothing_is_held_before_the_first_claim() -> None:
    assert held_seconds([], until=500.0) == 0.0


def test_goodput_is_the_time_in_steps_without_the_wait_for_data() -> None:
    sample = [{"step_s": 1.0, "data_wait_s": 0.2}, {"step_s": 3.0, "data_wait_s": 0.2}]
    assert goodput(sample, step=10, held_s=36.0) == pytest.approx(0.5)


def test_goodput_is_not_told_without_steps_or_time() -> None:
    assert goodput([], step=0, held_s=10.0) is None
    assert goodput([{"step_s": 1.0, "data_wait_s": 0.0}], step=1, held_s=0.0) is None
