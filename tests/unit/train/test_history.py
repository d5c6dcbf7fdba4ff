"""What follows from validations: plateaus, an early end, the best so far."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import ConfigError
from orchestrator.train.optim.history import History, count_stalls
from tests.fakes.small_runs import picture_config

NAN = math.nan
LOSSES = st.lists(st.floats(0, 10) | st.just(NAN), max_size=30)
PATIENCE = st.integers(1, 4)


def history_of(losses, every=2, best_by="loss", schedule=None, **evaluate):
    config = picture_config(
        evaluate={"every_steps": every, "best_by": best_by} | evaluate, schedule=schedule or {"name": "constant"}
    )
    history = History(config)
    for number, loss in enumerate(losses, start=1):
        history.add(every * number, {"loss": loss, best_by: loss})
    return history


@pytest.mark.parametrize(
    ("costs", "patience", "min_delta", "stalls"),
    [
        ([], 1, 0.0, 0),
        ([3.0, 2.0, 1.0], 1, 0.0, 0),
        ([3.0, 3.0], 1, 0.0, 1),  # as good is not better
        ([3.0, 4.0, 3.5, 2.0], 3, 0.0, 0),
        ([3.0, 4.0, 3.5, 3.2], 3, 0.0, 1),
        ([3.0, 4.0, 4.0, 4.0, 4.0], 2, 0.0, 2),  # counted anew after each
        ([3.0, 2.95, 2.9, 2.85], 3, 0.1, 0),  # slowly, but by more than 0.1 in all
        ([3.0, 2.99, 2.98], 2, 0.1, 1),
        ([math.inf, math.inf], 2, 0.0, 1),
    ],
)
def test_stalls_are_counted_from_the_best(costs, patience, min_delta, stalls):
    assert count_stalls(costs, patience, min_delta) == stalls


@given(LOSSES, PATIENCE, st.integers(0, 30))
def test_a_history_taken_up_again_concludes_what_the_whole_one_did(losses, patience, cut):
    """As a resume does it, from what a checkpoint carries."""
    sections = {"early_stop": {"patience": patience}, "schedule": {"name": "plateau", "patience": patience}}
    whole = history_of(losses, **sections)
    again = History(whole._config, history_of(losses[:cut], **sections).rows)
    for row in whole.rows[cut:]:
        again.add(row["step"], row)
    assert (again.falls, again.stalled) == (whole.falls, whole.stalled)
    assert str(again.rows) == str(whole.rows)


@given(LOSSES, PATIENCE)
def test_an_accuracy_ends_a_run_where_its_negative_as_a_loss_would(losses, patience):
    early_stop = {"patience": patience}
    by_loss = history_of(losses, early_stop=early_stop)
    by_accuracy = history_of([-loss for loss in losses], best_by="accuracy", early_stop=early_stop)
    assert by_accuracy.stalled == by_loss.stalled


def test_the_rate_falls_only_by_validations_after_warm_up():
    schedule = {"name": "plateau", "warmup_steps": 4, "patience": 2}
    assert history_of([1.0, 2.0, 3.0, 3.0], schedule=schedule).falls == 0
    assert history_of([1.0, 2.0, 3.0, 3.0, 3.0], schedule=schedule).falls == 1


def test_only_what_is_asked_for_follows():
    history = history_of([1.0] * 9)
    assert (history.falls, history.stalled) == (0, False)


@given(LOSSES.filter(bool), st.integers(1, 3))
def test_the_latest_is_among_the_best_if_fewer_are_better(losses, count):
    history = history_of(losses)
    finite = sorted(loss for loss in losses if not math.isnan(loss))
    expected = not math.isnan(losses[-1]) and losses[-1] <= finite[:count][-1]
    assert history.is_among_best(2 * len(losses), count) is expected
    assert not history.is_among_best(2 * len(losses), 0)
    assert not history.is_among_best(2 * len(losses) + 1, count)


def test_the_end_names_the_best_and_its_step():
    told = history_of([0.5, 0.75, 0.625, 0.5], best_by="accuracy", early_stop={"patience": 2}).tell_end()
    assert told == "stopped early: 2 validations brought no better accuracy; the best is 0.75, at step 4"


def test_a_metric_that_validation_does_not_give_is_refused_with_those_it_gives():
    config = picture_config(evaluate={"every_steps": 2, "best_by": "f1"})
    with pytest.raises(ConfigError, match=r"evaluate\.best_by: validation gives no f1, only loss, accuracy"):
        History(config).add(2, {"loss": 1.0, "accuracy": 0.5})
