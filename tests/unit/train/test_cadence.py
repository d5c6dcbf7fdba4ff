"""How often a snapshot is taken."""

import math

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.train.cadence import SHARE, Cadence


def test_as_stated() -> None:
    cadence = Cadence(3, first_step=5)
    due = []
    for step in range(6, 16):
        if cadence.is_due(step):
            cadence.note(step)
            due.append(step)
    assert due == [8, 11, 14]


def test_none_is_never_due() -> None:
    assert not any(Cadence(None, 0).is_due(step) for step in range(1, 100))


@given(step_s=st.floats(0.001, 100), cost_s=st.floats(1e-5, 100))
def test_auto_costs_at_most_its_share_and_not_rarer_than_that(step_s: float, cost_s: float) -> None:
    cadence = Cadence("auto", 0)
    assert cadence.is_due(1)  # what it costs must be learned
    cadence.note(1)
    cadence.learn(step_s, cost_s)
    assert cost_s <= SHARE * step_s * cadence.every * (1 + 1e-9)
    assert cadence.every <= max(1, math.ceil(cost_s / (SHARE * step_s)))


def test_one_slow_step_changes_nothing() -> None:
    cadence = Cadence("auto", 0)
    for step_s in [1.0] * 10 + [500.0]:
        cadence.learn(step_s, 0.1)
    assert cadence.every == 10
