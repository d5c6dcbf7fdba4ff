"""What all ranks do after a step."""

import pytest

from orchestrator.core.words import Word
from orchestrator.data.feeding.batch import ReadFigures
from orchestrator.data.ordering.ledger import Sums
from orchestrator.train.figures import StepFigures
from orchestrator.train.saver import Votes


def choose(*, stop=0, leave=0, down=0, empty=0, must_leave=False, is_writing=False) -> Word:
    figures = StepFigures(
        loss_sum=0.0,
        next_weight=1.0,
        count=1,
        holes=0,
        stop_votes=stop,
        leave_votes=leave,
        empty_handed=empty,
        stores_down=down,
        wait_s=0.0,
        before_s=0.0,
        snapshot_s=0.0,
        votes=Votes(),
        reading=ReadFigures(),
        sums=Sums(),
    )
    return figures.choose_word(must_leave=must_leave, is_writing=is_writing)


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ({}, Word.GO_ON),
        ({"is_writing": True}, Word.GO_ON),
        ({"empty": 2}, Word.GO_ON),  # the last step
        ({"stop": 1}, Word.STOP),
        ({"down": 1}, Word.STOP),
        ({"leave": 1}, Word.LEAVE),
        ({"leave": 2, "stop": 1}, Word.STOP),
        ({"leave": 2, "down": 1}, Word.STOP),
        ({"leave": 1, "is_writing": True}, Word.GO_ON),
        ({"leave": 1, "is_writing": True, "empty": 1}, Word.LEAVE),  # it waits for data, or the run is at its end
        ({"must_leave": True}, Word.LEAVE),
        ({"must_leave": True, "is_writing": True}, Word.LEAVE),
        ({"must_leave": True, "stop": 1}, Word.STOP),
    ],
)
def test_one_rank_that_has_heard_a_word_is_enough(said, word):
    assert choose(**said) is word
