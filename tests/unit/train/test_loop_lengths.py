"""The whole trainer over lengths stated in tokens and epochs: how it ends when a last batch has fewer samples than
ranks, or none that decodes. One gang of three goes through all cases once."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from orchestrator.checkpoint.found import list_checkpoints
from orchestrator.checkpoint.reader import open_checkpoint
from orchestrator.config.check import replace_values
from orchestrator.core.errors import TrainingFailed
from orchestrator.core.news import EvaluationNews, HolesNews, StepNews
from orchestrator.core.words import RunState
from orchestrator.data.ordering.length import resolve_length
from orchestrator.data.ordering.order import Order, SlotOrder, ValidationOrder
from orchestrator.prepare.run import prepare
from orchestrator.train.engine import warm
from tests.fakes.coloured_pictures import write_pictures
from tests.fakes.gang import run_gang
from tests.fakes.small_runs import SmallManifest, picture_config, small_config, train_small

TOKENS = 700
SHARDS, PICTURES, BATCH = 3, 12, 7  # 29 of the pictures are trained on: four batches and one sample, 7 validated
KNOWN = [{"step": 0, "position": 2}, {"step": 3, "position": 22}]
STAGES = {1: 0, 2: 2, 3: 3}  # of ZeRO, by world


def texts_config() -> Any:
    manifest = SmallManifest.make()
    return resolve_length(small_config(train={"steps": None, "tokens": TOKENS}), manifest)[0]


def pictures_config(root: Path, stage: int = 0) -> Any:
    """Of one epoch, not decided yet."""
    data = {
        "train": [{"path": str(root / "pictures")}],
        "work": str(root / "work"),
        "split": {"validation": 0.2},
        "ledger": "keys",
    }
    train = {"steps": None, "epochs": 1.0, "global_batch": BATCH}
    return picture_config(stage=stage, data=data, train=train, evaluate={"every_steps": 100})


def run_all(rank: int, size: int, store: Any, folder: Path, manifests: dict[str, Any]) -> dict[str, Any]:
    warm("cpu", threads=1)
    results: dict[str, Any] = {}
    if rank < 2:
        results["tokens"] = train_small(rank, 2, store, texts_config(), folder / "tokens")
    for name, world in (("whole", 1), ("whole", 2), ("whole", 3), ("holes", 3)):
        if rank < world:
            case, manifest = f"{name}{world}", manifests[name]
            config, _ = resolve_length(pictures_config(folder / name, STAGES[world]), manifest)
            results[case] = train_small(rank, world, store, config, folder / "runs" / case, manifest=manifest)
    if rank == 0:
        results["limit"] = exceed_holes(store, folder, manifests["holes"])
    return results


def exceed_holes(store: Any, folder: Path, manifest: Any) -> str:
    """Two are known from before, two are allowed, and the last step brings one more."""
    config, _ = resolve_length(pictures_config(folder / "holes"), manifest)
    config = replace_values(config, {"data.max_holes": 2, "checkpoint.every_steps": 2, "evaluate.every_steps": None})
    rows: list[dict[str, int]] = [{"format": 1}, *KNOWN]
    (folder / "runs" / "limit-skips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(TrainingFailed) as caught:
        train_small(0, 1, store, config, folder / "runs" / "limit", manifest=manifest)
    return str(caught.value)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What each rank saw ([{case: (outcome, sink)}]), and in which folder. In `holes` the last sample that is trained
    on and all that are validated do not decode; `whole` has none of these."""
    folder = tmp_path_factory.mktemp("lengths")
    write_pictures(folder / "whole" / "pictures", shards=SHARDS, pictures=PICTURES)
    whole = prepare(pictures_config(folder / "whole"))
    config, _ = resolve_length(pictures_config(folder / "whole"), whole)
    broken = find_samples(Order.of(config, whole), config.train.num_steps - 1, whole)
    broken += find_samples(ValidationOrder.of(config, whole), 0, whole)
    assert len(broken) == 1 + whole.kept("validation").sum()
    write_pictures(folder / "holes" / "pictures", shards=SHARDS, pictures=PICTURES, broken=tuple(broken))
    manifests = {"whole": whole, "holes": prepare(pictures_config(folder / "holes"))}
    return run_gang(3, run_all, folder, manifests), folder


def find_samples(order: SlotOrder, step: int, manifest: Any) -> list[tuple[int, int]]:
    """Shard and place of what a step feeds."""
    slots = order.slots(step)
    spans = [order.spans(slots, row)[0] for row in range(slots.position.size)]
    return [(int(manifest.shard_name(span.ordinal)[-7:-4]), span.place) for span in spans]


@pytest.fixture
def seen(ran):
    return ran[0]


def rows(seen, case) -> list[dict[str, Any]]:
    return seen[0][case][1].rows()


def test_a_run_of_tokens_ends_with_the_step_that_brings_the_last_of_them(seen):
    for result in seen[:2]:
        outcome, _ = result["tokens"]
        assert (outcome.state, outcome.step) == (RunState.DONE, texts_config().train.num_steps)
    told = [row["tokens"] for row in rows(seen, "tokens")]
    assert len(told) == seen[0]["tokens"][0].step
    assert sum(told[:-1]) < TOKENS <= sum(told)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_without_a_sample_in_the_last_batch_change_neither_gradient_nor_ledger(seen, world):
    alone, shared = rows(seen, "whole1"), rows(seen, f"whole{world}")
    assert [row["samples"] for row in alone] == [BATCH] * 4 + [1]
    by_rank = [seen[rank][f"whole{world}"][1].of(StepNews) for rank in range(world)]
    assert [bool(told) for told in by_rank] == [True] + [False] * (world - 1)
    for one, other in zip(alone, shared, strict=True):
        assert other["applied"]
        assert other["loss"] == pytest.approx(one["loss"], rel=2e-5)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=2e-4)
        assert all(other[key] == one[key] for key in ("order_digest", "set_digest", "count", "samples", "epoch"))
    assert all(seen[rank][f"whole{world}"][0].state is RunState.DONE for rank in range(world))


def test_a_last_batch_whose_only_sample_does_not_decode_is_a_void_step_on_all_ranks(seen):
    *before, last = rows(seen, "holes3")
    assert all(row["applied"] and row["samples"] == BATCH for row in before)
    assert (last["samples"], last["count"], last["holes"]) == (0, 0, 1)
    assert (last["loss"], last["applied"]) == (0, False)
    told = [news.step for result in seen for news in result["holes3"][1].of(HolesNews)]
    assert told == [4]
    assert all(result["holes3"][0].state is RunState.DONE for result in seen)


def test_a_validation_of_which_nothing_decodes_tells_so_and_ends_no_run(seen):
    [good] = seen[0]["whole3"][1].of(EvaluationNews)
    [none] = seen[0]["holes3"][1].of(EvaluationNews)
    assert none.metrics["holes"] == good.metrics["samples"] > 0
    assert none.metrics["samples"] == 0
    assert math.isnan(none.metrics["loss"])


def test_holes_of_earlier_lives_count_towards_the_limit(seen):
    assert "step 4: 3 samples do not decode, more than data.max_holes=2" in seen[0]["limit"]


def test_a_checkpoint_has_the_skips_up_to_its_step_though_later_ones_are_known(ran):
    _, folder = ran
    skips = {one.step: list(open_checkpoint(one.path).facts.skips) for one in list_checkpoints(folder / "runs/limit")}
    assert skips == {2: KNOWN[:1], 4: KNOWN}
