"""The whole trainer with real engines. One gang of three processes goes through all cases once."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.checkpoint.found import list_checkpoints
from orchestrator.checkpoint.reader import open_checkpoint
from orchestrator.core.errors import TrainingFailed
from orchestrator.core.news import CheckpointNews, EvaluationNews, KeysNews
from orchestrator.core.words import RunState
from orchestrator.data.ordering.order import Order, ValidationOrder, rank_slice
from orchestrator.train.engine import warm
from tests.fakes.gang import run_gang
from tests.fakes.small_runs import (
    GPT2,
    LLAMA,
    ScriptedHelm,
    SmallManifest,
    StoreIsDown,
    small_config,
    train_small,
)

DROPOUT = GPT2 | {"attn_pdrop": 0.2, "resid_pdrop": 0.2, "embd_pdrop": 0.2}
WORLDS = {1: 0, 2: 2, 3: 3}  # size -> ZeRO stage
EVALUATE = {"every_steps": 2}


def run_all(rank: int, size: int, store: Any, folder: Path) -> dict[str, Any]:
    """Every case on the first ranks; the others wait in the next case that needs them."""
    warm("cpu", threads=1)
    results: dict[str, Any] = {}
    for world, stage in WORLDS.items():
        if rank < world:
            config = small_config(stage=stage, evaluate=EVALUATE, data={"ledger": "keys"})
            results[f"world{world}"] = digest(*train_small(rank, world, store, config, folder / f"world{world}"))
    for case in (stop_one, resume_with_dropout, move_to_another_world, fail_on_nan, lose_the_disk, lose_the_store):
        results[case.__name__] = case(rank, store, folder / case.__name__)
    return results


def digest(outcome: Any, sink: Any) -> dict[str, Any]:
    return {
        "outcome": outcome,
        "rows": sink.rows(),
        "keys": sink.of(KeysNews),
        "evaluations": sink.of(EvaluationNews),
        "checkpoints": sink.of(CheckpointNews),
    }


def stop_one(rank: int, store: Any, folder: Path) -> Any:
    """Only rank 1 hears the word, during its third step."""
    if rank < 2:
        helm = ScriptedHelm(stop_at=2 if rank == 1 else None)
        outcome, sink = train_small(rank, 2, store, small_config(stage=2), folder, helm=helm)
        return digest(outcome, sink) | {"shown": helm.shown}
    return None


def resume_with_dropout(rank: int, store: Any, folder: Path) -> Any:
    """An unbroken run, and one that goes on from its checkpoint at step 4 in another generation."""
    if rank < 2:
        config = small_config(DROPOUT, stage=2, checkpoint={"every_steps": 2}, evaluate=EVALUATE)
        whole = digest(*train_small(rank, 2, store, config, folder / "whole"))
        start = folder / "whole" / "step-00000004-g0001"
        again = digest(*train_small(rank, 2, store, config, folder / "again", generation=2, start=start))
        return whole, again
    return None


def move_to_another_world(rank: int, store: Any, folder: Path) -> Any:
    """Three ranks at stage 1 go on from where two at stage 2 stopped."""
    if rank < 2:
        train_small(rank, 2, store, small_config(stage=2), folder, helm=ScriptedHelm(stop_at=2))
    start = folder / "step-00000003-g0001"
    return digest(*train_small(rank, 3, store, small_config(stage=1), folder, generation=2, start=start))


def fail_on_nan(rank: int, store: Any, folder: Path) -> Any:
    """A model whose norms take the root of negative numbers."""
    if rank < 2:
        config = small_config(LLAMA | {"rms_norm_eps": -1000.0}, stage=2, elastic={"max_voided": 2})
        with pytest.raises(TrainingFailed) as caught:
            train_small(rank, 2, store, config, folder)
        return str(caught.value)
    return None


def lose_the_disk(rank: int, store: Any, folder: Path) -> Any:
    """No checkpoint can be written: a file lies where the folder should be."""
    if rank < 2:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.touch()
        with pytest.raises(TrainingFailed) as caught:
            train_small(rank, 2, store, small_config(checkpoint={"every_steps": 2}), folder)
        return str(caught.value)
    return None


def lose_the_store(rank: int, store: Any, folder: Path) -> Any:
    """What one rank needs at its first step, and then at a later one, stays away; the others have all they need."""
    if rank > 1:
        return None
    results = {}
    for name, step in (("at once", 0), ("later", 3)):
        config, manifest = small_config(evaluate={"every_steps": step or 2}), StoreIsDown.make()
        manifest.away = first_needed_at(step, config, manifest) if rank == 1 else -1
        outcome, sink = train_small(rank, 2, store, config, folder / name.replace(" ", "-"), manifest=manifest)
        results[name] = digest(outcome, sink)
    start = results["later"]["outcome"].checkpoint
    resumed = train_small(rank, 2, store, small_config(), folder / "later", generation=2, start=start)
    return results | {"resumed": digest(*resumed)}


def first_needed_at(step: int, config: Any, manifest: Any) -> int:
    """A shard that the second of two ranks reads in this step for the first time."""
    order, seen = Order.of(config, manifest), set[int]()
    for at in range(step + 1):
        slots = order.slots(at)
        read = {span.ordinal for slot in rank_slice(10, 1, 2) for span in order.spans(slots, slot)}
        new, seen = read - seen, seen | read
    return min(new)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank saw: [{case: result}]."""
    folder = tmp_path_factory.mktemp("runs")
    return run_gang(3, run_all, folder), folder


def test_run_ends_done_with_a_row_for_every_step_and_a_checkpoint(ranks):
    (seen, *_), _ = ranks
    result = seen["world1"]
    assert result["outcome"].state is RunState.DONE
    assert result["outcome"].step == 6
    assert [row["step"] for row in result["rows"]] == list(range(6))
    assert all(row["applied"] and 0 < row["tokens"] <= 160 and row["samples"] == 10 for row in result["rows"])
    assert [news.step for news in result["checkpoints"]] == [6]
    assert open_checkpoint(result["outcome"].checkpoint).step == 6


def test_loss_begins_at_guessing_and_falls(ranks):
    (seen, *_), _ = ranks
    losses = [row["loss"] for row in seen["world1"]["rows"]]
    assert losses[0] == pytest.approx(math.log(1000), rel=0.02)
    assert losses[-1] < losses[0] - 1


@pytest.mark.parametrize("world", [2, 3])
def test_losses_and_ledger_do_not_depend_on_world_and_stage(ranks, world):
    (seen, *_), _ = ranks
    for one, other in zip(seen["world1"]["rows"], seen[f"world{world}"]["rows"], strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=2e-5)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=2e-4)
        assert all(other[key] == one[key] for key in ("order_digest", "set_digest", "count", "tokens", "lr"))
        assert other["world_size"] == world


def test_only_rank_zero_tells_steps_but_every_rank_its_keys(ranks):
    results, _ = ranks
    assert [bool(seen["world3"]["rows"]) for seen in results] == [True, False, False]
    for step in range(6):
        told = [next(k for k in seen["world3"]["keys"] if k.step == step) for seen in results]
        assert [slot for keys in told for slot in keys.slots] == list(range(10))
        whole = next(k for k in results[0]["world1"]["keys"] if k.step == step)
        assert [spans for keys in told for spans in keys.spans] == whole.spans


@pytest.mark.parametrize("world", [1, 2, 3])
def test_validation_sees_every_token_once_in_any_world(ranks, world):
    (seen, *_), _ = ranks
    manifest, config = SmallManifest.make(), small_config()
    told = seen[f"world{world}"]["evaluations"]
    assert [news.step for news in told] == [2, 4, 6]
    assert all(news.metrics["tokens"] == manifest.totals("validation").sum() - 1 for news in told)
    assert ValidationOrder.of(config, manifest).count % config.train.global_batch, "the last batch is to be a short one"
    for one, other in zip(seen["world1"]["evaluations"], told, strict=True):
        assert other.metrics["loss"] == pytest.approx(one.metrics["loss"], rel=2e-5)
        assert other.metrics["perplexity"] == pytest.approx(math.exp(other.metrics["loss"]))


def test_word_heard_by_one_rank_stops_all_at_the_same_step_with_a_checkpoint(ranks):
    results, folder = ranks
    for seen in results[:2]:
        outcome = seen["stop_one"]["outcome"]
        assert (outcome.state, outcome.step) == (RunState.STOPPED, 3)
        assert outcome.checkpoint.name == "step-00000003-g0001"
    assert [one.step for one in list_checkpoints(folder / "stop_one")] == [3]
    assert results[0]["stop_one"]["shown"][-1] == (3, "checkpoint")


def test_resumed_run_is_bit_equal_also_with_dropout(ranks):
    (seen, *_), _folder = ranks
    whole, again = seen["resume_with_dropout"]
    assert again["rows"] == whole["rows"][4:]
    assert [news.metrics for news in again["evaluations"]] == [whole["evaluations"][-1].metrics]
    one, other = (open_checkpoint(result["outcome"].checkpoint) for result in (whole, again))
    for name, info in one.tensors.items():
        for state in one.states(name):
            a, b = (reader.read(name, state, 0, info.numel) for reader in (one, other))
            assert torch.equal(a, b), (name, state)


def test_run_goes_on_in_another_world_with_the_same_samples(ranks):
    (seen, *_), _ = ranks
    moved, whole = seen["move_to_another_world"]["rows"], seen["world1"]["rows"][3:]
    for one, other in zip(whole, moved, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=2e-5)
        assert other["order_digest"] == one["order_digest"]


def test_checkpoint_of_a_validated_step_knows_its_loss(ranks):
    (seen, *_), folder = ranks
    whole, _ = seen["resume_with_dropout"]
    losses = {news.step: news.metrics["loss"] for news in whole["evaluations"]}
    kept = list_checkpoints(folder / "resume_with_dropout" / "whole")
    assert {one.step: one.metrics["loss"] for one in kept} == losses


def test_too_many_batches_left_out_end_the_run_and_name_what_was_fed(ranks):
    results, _ = ranks
    for rank, seen in enumerate(results[:2]):
        assert "step 2: 3 batches have numbers that go wrong, more than elastic.max_voided=2" in seen["fail_on_nan"]
        assert f"rank {rank} fed source0/" in seen["fail_on_nan"]
        assert "optim.lr" in seen["fail_on_nan"]


def test_run_that_cannot_write_goes_on_but_is_not_done(ranks):
    results, _ = ranks
    for seen in results[:2]:
        assert "last checkpoint could not be written" in seen["lose_the_disk"]


def test_a_store_that_stays_away_stops_all_ranks_at_one_step_with_a_checkpoint(ranks):
    results, _ = ranks
    outcomes = [seen["lose_the_store"]["later"]["outcome"] for seen in results[:2]]
    assert [(outcome.state, outcome.step) for outcome in outcomes] == [(RunState.STOPPED, 3)] * 2
    assert all(outcome.checkpoint.name == "step-00000003-g0001" for outcome in outcomes)
    assert [outcome.reason for outcome in outcomes] == [
        "",
        "s3://bucket: HTTP 503 for 900 s\n  -> resume when it is back",
    ]
    assert not results[0]["lose_the_store"]["later"]["evaluations"], "it would only wait for the store again"
    resumed = results[0]["lose_the_store"]["resumed"]
    assert [row["step"] for row in resumed["rows"]] == [3, 4, 5]
    for one, other in zip(results[0]["world1"]["rows"][3:], resumed["rows"], strict=True):
        assert other["order_digest"] == one["order_digest"]


def test_a_store_that_is_away_from_the_start_costs_no_step(ranks):
    results, _ = ranks
    outcomes = [seen["lose_the_store"]["at once"]["outcome"] for seen in results[:2]]
    assert [(outcome.state, outcome.step) for outcome in outcomes] == [(RunState.STOPPED, 0)] * 2
    assert [bool(outcome.reason) for outcome in outcomes] == [False, True]
    assert not results[0]["lose_the_store"]["at once"]["rows"]
