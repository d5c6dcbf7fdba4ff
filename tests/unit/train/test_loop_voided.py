"""Numbers that go wrong on purpose: tried again, left out of the run, gone back from. One gang of two ranks."""

from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.checkpoint.reader import open_checkpoint
from orchestrator.config.run import RunConfig
from orchestrator.core.drill import Drill, WrongNumber
from orchestrator.core.errors import TrainingFailed
from orchestrator.core.news import TroubleNews, VoidedNews
from orchestrator.core.words import RunState
from orchestrator.data.ordering.skips import Skips
from orchestrator.storage.lines import LineFile
from orchestrator.train.engine import warm
from tests.fakes.gang import run_gang
from tests.fakes.small_runs import GPT2, small_config, train_small
from tests.fakes.tiny_model import pretend_fp16_works

DROPOUT = GPT2 | {"attn_pdrop": 0.2, "resid_pdrop": 0.2, "embd_pdrop": 0.2}
FP16 = {"initial_scale_power": 8, "loss_scale_window": 1, "hysteresis": 1}  # it grows every step
SETTINGS = {  # ZeRO stage and precision
    "stage0-fp32": (0, "fp32"),
    "stage0-fp16": (0, "fp16"),
    "stage1-bf16": (1, "bf16"),
    "stage2-fp16": (2, "fp16"),
    "stage3-bf16": (3, "bf16"),
    "stage3-fp16": (3, "fp16"),
}
WRONG = 2  # the step
ALWAYS = Drill(wrong=(WrongNumber(step=WRONG, kind="nan", rank=1),))
ONCE = Drill(wrong=(WrongNumber(step=WRONG, kind="nan", rank=1, times=1),))
LEAP = Drill(wrong=(WrongNumber(step=4, kind="spike", rank=1),))
SPIKE = {"spike": {"steps": 3, "deviations": 3.0, "least_rise": 0.5, "action": "void"}}


def run_all(rank: int, size: int, store: Any, folder: Path) -> dict[str, Any]:
    warm("cpu", threads=1)
    pretend_fp16_works()
    results: dict[str, Any] = {}

    def run(name: str, config: Any, **options: Any) -> Path:
        outcome, sink = train_small(rank, size, store, config, folder / name, **options)
        generation = options.get("generation", 1)
        results[f"{name} g{generation}"] = {
            "outcome": outcome,
            "rows": sink.rows(),
            "troubles": sink.of(TroubleNews),
            "voided": sink.of(VoidedNews),
            "too early": sink.steps_too_early,
        }
        return folder / name

    for name, (stage, precision) in SETTINGS.items():
        config = make_config(stage, precision)
        run(f"{name} unbroken", config)
        run(f"{name} once", config, drill=ONCE)
        run(f"{name} always", config, drill=ALWAYS)
        run(skip_from_the_beginning(folder / f"{name} skipped", rank, WRONG), config)
    start = folder / "stage1-bf16 always" / "step-00000002-g0001"
    run("stage1-bf16 always", make_config(1, "bf16"), start=start, generation=2)

    config = small_config(stage=2, elastic=SPIKE, train={"steps": 6}, checkpoint={"every_steps": 2})
    start = run("leap", config, drill=LEAP) / "step-00000004-g0001"
    run("leap", config, drill=LEAP, start=start, generation=2)
    run(skip_from_the_beginning(folder / "leap skipped", rank, 4), config)

    twice = Drill(wrong=(WrongNumber(step=1, kind="nan"), WrongNumber(step=3, kind="nan")))
    config = small_config(stage=1, elastic={"max_voided": 1})
    with pytest.raises(TrainingFailed) as caught:
        train_small(rank, size, store, config, folder / "limit", drill=twice)
    results["limit"] = str(caught.value)
    return results


def make_config(stage: int, precision: str) -> RunConfig:
    """fp16 on the CPU is refused, and so is any other search for a loss scale than the default: not here."""
    config = small_config(DROPOUT, stage=stage, train={"steps": 4}, checkpoint={"every_steps": 2, "keep": {"last": 9}})
    keys = config.deepspeed | ({"fp16": FP16} if precision == "fp16" else {})
    return config.model_copy(
        update={"train": config.train.model_copy(update={"precision": precision}), "deepspeed": keys}
    )


def skip_from_the_beginning(folder: Path, rank: int, step: int) -> str:
    """The run's name."""
    if rank == 0:
        with LineFile(folder.parent / f"{folder.name}-skips.jsonl", head={"format": 1}) as file:
            file.append([{"step": step, "voided": True, "reason": "known"}])
    return folder.name


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voided")
    return run_gang(2, run_all, folder, deadline_s=240.0), folder


def lasting(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what making a batch took."""
    return [{name: value for name, value in row.items() if name != "read_bytes"} for row in rows]


def state_of(checkpoint: Path) -> dict[tuple[str, str], torch.Tensor]:
    reader = open_checkpoint(checkpoint)
    scale = {("loss scale", name): torch.tensor(value) for name, value in reader.engine().items()}
    return scale | {
        (name, state): reader.read(name, state, 0, info.numel)
        for name, info in reader.tensors.items()
        for state in reader.states(name)
    }


def assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    """In every row, and in every bit of the last checkpoint."""
    assert lasting(one["rows"]) == lasting(other["rows"])
    assert_equal_states(one, other)


def assert_equal_states(one: dict[str, Any], other: dict[str, Any]) -> None:
    here, there = (state_of(run["outcome"].checkpoint) for run in (one, other))
    assert here.keys() == there.keys()
    for place, values in here.items():
        assert torch.equal(values, there[place]), place


@pytest.mark.parametrize("name", SETTINGS)
def test_run_with_a_voided_batch_equals_one_that_left_it_out_from_the_beginning(ranks, name):
    (seen, other), _ = ranks
    voided, skipped = seen[f"{name} always g1"], seen[f"{name} skipped g1"]
    assert_equal(voided, skipped)
    assert [(row["applied"], row["samples"], row["loss"]) for row in voided["rows"]][WRONG] == (False, 0, 0.0)
    [trouble], [news] = voided["troubles"], voided["voided"]
    assert (trouble.kind, trouble.step, [fed.rank for fed in trouble.fed]) == ("not_finite", WRONG, [1])
    assert (news.step, news.reason) == (WRONG, trouble.reason)
    assert not skipped["troubles"]
    assert not other[f"{name} always g1"]["voided"], "rank 0 tells for all"


@pytest.mark.parametrize("name", SETTINGS)
def test_numbers_that_were_wrong_once_leave_no_trace_but_the_news_of_whose_they_were(ranks, name):
    (seen, _), folder = ranks
    once = seen[f"{name} once g1"]
    assert_equal(once, seen[f"{name} unbroken g1"])
    [trouble] = once["troubles"]
    assert (trouble.kind, trouble.step, [fed.rank for fed in trouble.fed]) == ("not_repeated", WRONG, [1])
    assert not once["voided"]
    assert not (folder / f"{name} once-skips.jsonl").exists()


def test_a_batch_is_voided_on_disk_before_its_step_is_told(ranks):
    (seen, _), folder = ranks
    assert seen["stage1-bf16 always g1"]["too early"] == []
    assert Skips.load(folder / "stage1-bf16 always-skips.jsonl").voided == {WRONG}


def test_resume_from_before_a_voided_step_leaves_it_out_too(ranks):
    (seen, _), _ = ranks
    before, again = seen["stage1-bf16 always g1"], seen["stage1-bf16 always g2"]
    assert lasting(again["rows"]) == lasting(before["rows"])[2:]
    assert not again["troubles"]
    assert_equal_states(before, again)


def test_checkpoint_names_the_voided_steps_before_it(ranks):
    (seen, _), folder = ranks
    early = open_checkpoint(folder / "stage1-bf16 always" / "step-00000002-g0001")
    late = open_checkpoint(seen["stage1-bf16 always g1"]["outcome"].checkpoint)
    assert (early.facts.skips, late.facts.skips) == ((), ({"step": WRONG, "voided": True},))


def test_loss_that_leaps_ends_the_world_before_its_step_is_told(ranks):
    results, folder = ranks
    for seen in results:
        outcome = seen["leap g1"]["outcome"]
        assert (outcome.state, outcome.step, outcome.back_to) == (RunState.RUNNING, 4, 4)
        assert "elastic.spike" in outcome.reason
    first = results[0]["leap g1"]
    assert [row["step"] for row in first["rows"]] == [0, 1, 2, 3]
    assert [(news.kind, news.step) for news in first["troubles"]] == [("loss_spike", 4)]
    assert [news.step for news in first["voided"]] == [4]
    assert not list((folder / "leap").glob("step-00000005*")), "nothing is kept of it"


def test_run_that_went_back_equals_one_that_left_the_batch_out_from_the_beginning(ranks):
    (seen, _), _ = ranks
    again, skipped = seen["leap g2"], seen["leap skipped g1"]
    assert again["outcome"].state is RunState.DONE
    assert lasting(seen["leap g1"]["rows"] + again["rows"]) == lasting(skipped["rows"])
    assert_equal_states(again, skipped)


def test_the_batch_above_the_limit_ends_the_run_and_is_not_left_out(ranks):
    results, folder = ranks
    for seen in results:
        assert "step 3: 2 batches have numbers that go wrong, more than elastic.max_voided=1" in seen["limit"]
        assert "rank 0 fed source0/" in seen["limit"]
    assert Skips.load(folder / "limit-skips.jsonl").voided == {1}
