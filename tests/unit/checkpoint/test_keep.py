"""Retention: the newest, the best, and never the last sound one."""

import random
from pathlib import Path

import pytest

from orchestrator.checkpoint.found import Found, list_checkpoints
from orchestrator.checkpoint.keep import choose_to_delete, prune, rank_best
from orchestrator.config.running import KeepSection
from tests.fakes.saving import save_all, small_model, split

NAN = float("nan")


@pytest.mark.parametrize(
    ("losses", "damaged", "last", "best", "kept"),
    [
        ([None] * 5, [], 3, 0, [2, 3, 4]),
        ([None], [], 3, 0, [0]),
        ([], [], 3, 1, []),
        ([1.0, 3.0, 2.0, 4.0], [], 1, 1, [0, 3]),
        ([1.0, 3.0, 2.0, 4.0], [], 1, 2, [0, 2, 3]),
        ([3.0, 3.0, 3.0, 1.0], [], 1, 2, [2, 3]),  # of equal ones the newest
        ([NAN, None, 5.0, 6.0], [], 1, 1, [2, 3]),
        ([1.0, 2.0, 3.0], [0], 1, 1, [1, 2]),  # a damaged one is best at nothing
        ([None] * 3, [2], 1, 0, [1, 2]),  # the newest is damaged: it is shown, and the last sound one stays
        ([None] * 4, [1, 2, 3], 1, 0, [0, 1, 2, 3]),
        ([None] * 3, [0, 1, 2], 1, 0, [0, 1, 2]),
        ([None] * 4, [1], 2, 0, [2, 3]),
    ],
)  # fmt: skip
def test_retention(losses: list[float | None], damaged: list[int], last: int, best: int, kept: list[int]) -> None:
    found = [
        Found(Path(str(step)), step, 1, {} if loss is None else {"loss": loss}, "damaged" if step in damaged else "")
        for step, loss in enumerate(losses)
    ]
    random.Random(0).shuffle(found)
    deleted = choose_to_delete(found, KeepSection(last=last, best=best), "loss")
    assert [one.step for one in deleted] == [step for step in range(len(losses)) if step not in kept]


def test_pruning_leaves_the_newest(tmp_path: Path) -> None:
    for step in range(1, 6):
        save_all(tmp_path, split(small_model(), 1, random.Random(0)), step)
    deleted = prune(tmp_path, KeepSection(last=2), "loss")
    assert [path.name for path in deleted] == [f"step-0000000{step}-g0002" for step in (1, 2, 3)]
    assert [one.step for one in list_checkpoints(tmp_path)] == [4, 5]
    assert prune(tmp_path, KeepSection(last=2), "loss") == []


def test_the_only_one_to_stay_is_read_before_others_go(tmp_path: Path) -> None:
    for step in range(1, 4):
        save_all(tmp_path, split(small_model(), 1, random.Random(0)), step)
    newest = tmp_path / "step-00000003-g0002" / "rank-00000.safetensors"
    whole = newest.read_bytes()
    newest.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # a look does not show it
    assert [path.name for path in prune(tmp_path, KeepSection(last=1), "loss")] == ["step-00000001-g0002"]
    assert [one.step for one in list_checkpoints(tmp_path)] == [2, 3]
    newest.write_bytes(whole)
    prune(tmp_path, KeepSection(last=1), "loss")
    assert [one.step for one in list_checkpoints(tmp_path)] == [3]


def test_the_best_are_those_of_the_metric_that_is_gone_by() -> None:
    measured = [(1.0, 0.5), (2.0, 0.9), (3.0, None), (4.0, 0.7)]
    found = [
        Found(Path(str(step)), step, 1, {"loss": loss} | ({} if accuracy is None else {"accuracy": accuracy}))
        for step, (loss, accuracy) in enumerate(measured)
    ]
    assert [one.step for one in rank_best(found, "loss")] == [0, 1, 2, 3]
    assert [one.step for one in rank_best(found, "accuracy")] == [1, 3, 0]
    deleted = choose_to_delete(found, KeepSection(last=1, best=1), "accuracy")
    assert [one.step for one in deleted] == [0, 2]
