"""Which checkpoint people mean."""

from pathlib import Path

import pytest

from orchestrator.checkpoint.choose import choose_checkpoint
from orchestrator.checkpoint.found import Found
from orchestrator.core.errors import BadInput


def found(*losses: float | None, damaged: tuple[int, ...] = ()) -> list[Found]:
    """One every ten steps."""
    return [
        Found(
            Path(str(number)),
            10 * number,
            1,
            {} if loss is None else {"loss": loss, "f1": loss},
            "damaged" if number in damaged else "",
        )
        for number, loss in enumerate(losses, start=1)
    ]


@pytest.mark.parametrize(
    ("wish", "damaged", "step"),
    [("last", (), 50), ("last", (5,), 40), ("best", (), 40), ("best", (4,), 20), ("30", (), 30)],
)
def test_best_last_or_a_step(wish: str, damaged: tuple[int, ...], step: int) -> None:
    losses = (float("nan"), 1.0, 3.0, 1.0, None)
    assert choose_checkpoint(found(*losses, damaged=damaged), wish, "loss").step == step


def test_best_is_by_the_metric_that_the_run_goes_by() -> None:
    assert choose_checkpoint(found(1.0, 3.0, 2.0), "best", "f1").step == 20


def test_of_two_lives_the_later_one_counts() -> None:
    again = [Found(Path("a"), 10, 1), Found(Path("b"), 10, 2)]
    assert choose_checkpoint(again, "10", "loss").generation == 2


@pytest.mark.parametrize(
    ("checkpoints", "wish", "said"),
    [
        (found(), "last", "the run has no checkpoint yet"),
        (found(1.0, damaged=(1,)), "last", "the run has no checkpoint yet"),
        (found(1.0, 2.0), "15", "the step of one that there is: 10, 20"),
        (found(1.0, 2.0), "newest", "take best, last, or the step of one"),
        (found(None, float("inf")), "best", "validated by loss"),
    ],
)
def test_what_there_is_is_named_where_nothing_fits(checkpoints: list[Found], wish: str, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        choose_checkpoint(checkpoints, wish, "loss")
    assert said in str(caught.value)
    assert f"--checkpoint {wish}" in str(caught.value)
