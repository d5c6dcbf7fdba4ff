"""Metrics over worlds of one to five ranks: one gang of five processes goes through all of them once."""

from typing import Any

import pytest
import torch
from torch.distributed import PrefixStore

from orchestrator.train import agreement
from orchestrator.train.evaluation.classes import ClassMetrics
from orchestrator.train.evaluation.numbers import NumberMetrics
from orchestrator.train.evaluation.ranks import Ranks
from tests.fakes.gang import run_gang

WORLDS = range(1, 6)
ROWS, CLASSES, ABSENT = 37, 4, 2
METRICS = ["accuracy", "precision", "recall", "f1", "roc_auc", "confusion_matrix"]


def measure_in_all(rank: int, size: int, store: Any) -> dict[int, Any]:
    torch.set_num_threads(1)
    seen: dict[int, Any] = {}
    for world in WORLDS:
        if rank < world:
            own_store = PrefixStore(f"world{world}", store)
            torch.distributed.init_process_group("gloo", store=own_store, rank=rank, world_size=world)
            agreement.use_group(torch.distributed.group.WORLD)  # as join_world does, without DeepSpeed
            seen[world] = measure_rows(rank, world)
            agreement.use_group(None)
            torch.distributed.destroy_process_group()
    return seen


def measure_rows(rank: int, world: int) -> Any:
    """The same rows whatever the world, in uneven parts and batches: the first of several ranks has none, so it is fed
    a row that does not count, as others are that do not either."""
    draws = torch.Generator().manual_seed(7)
    outputs = torch.randn(ROWS, CLASSES, generator=draws).round(decimals=1)  # with ties
    targets = torch.randint(0, CLASSES - 1, (ROWS,), generator=draws)
    targets[targets == ABSENT] = CLASSES - 1
    counting = torch.rand(ROWS, generator=draws) > 0.2
    pairs = max(1, world * (world - 1))
    cuts = [0, *(ROWS * part * (part - 1) // pairs for part in range(1, world)), ROWS]
    mine = range(cuts[rank], cuts[rank + 1])
    classes, numbers = ClassMetrics(CLASSES, METRICS, Ranks()), NumberMetrics(Ranks())
    for part in torch.tensor(mine or [0]).split(4):
        part_counting = counting[part] & bool(mine)
        classes.update(outputs[part], targets[part], part_counting)
        numbers.update(outputs[part, 0], targets[part], part_counting)
    scores = classes.compute()
    told = (scores.counts, scores.accuracy, scores.precision, scores.recall, scores.f1, scores.roc_auc, scores.matrix)
    return told, numbers.compute(), agreement.gather_over_ranks(torch.tensor(mine, dtype=torch.long)).tolist()


@pytest.fixture(scope="module")
def seen():
    return run_gang(max(WORLDS), measure_in_all)


@pytest.mark.parametrize("world", WORLDS)
def test_metrics_are_bit_equal_on_every_rank_of_every_world(seen, world):
    alone = seen[0][1]
    assert [result[world] for result in seen[:world]] == [alone] * world


def test_rows_come_in_the_order_of_the_ranks_and_some_classes_are_there(seen):
    (counts, *_), _, rows = seen[0][5]
    assert rows == list(range(ROWS))
    assert [count > 0 for count in counts] == [number != ABSENT for number in range(CLASSES)]
    assert sum(counts) < ROWS
