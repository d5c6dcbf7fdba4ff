"""What a drill makes of losses."""

import math

from orchestrator.core.drill import Drill, WrongNumber
from orchestrator.train.sabotage import Sabotage


def factors(drill: Drill, rank: int, steps: list[int]) -> list[float]:
    sabotage = Sabotage(drill, rank)
    return [sabotage.begin_attempt(step) for step in steps]


def test_without_a_drill_losses_stay_as_they_are():
    assert factors(Drill(), 0, [0, 1, 1]) == [1.0, 1.0, 1.0]


def test_only_the_rank_and_step_that_are_named_go_wrong():
    drill = Drill(wrong=(WrongNumber(step=2, kind="spike", rank=1),))
    assert factors(drill, 0, [1, 2, 3]) == [1.0, 1.0, 1.0]
    assert factors(drill, 1, [1, 2, 3]) == [1.0, 1000.0, 1.0]


def test_it_goes_wrong_in_as_many_attempts_as_are_stated_or_in_all():
    once, always = (Drill(wrong=(WrongNumber(step=2, kind="nan", times=times),)) for times in (1, 0))
    assert list(map(math.isnan, factors(once, 0, [2, 2, 2]))) == [True, False, False]
    assert list(map(math.isnan, factors(always, 0, [2, 2, 2]))) == [True, True, True]
