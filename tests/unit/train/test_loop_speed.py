"""The trainer with activations computed again, with numbers that go wrong, with too little memory. One gang of two."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.checkpoint.reader import open_checkpoint
from orchestrator.core.errors import TrainingFailed
from orchestrator.core.news import StepNews, TroubleNews
from orchestrator.train import loop
from orchestrator.train.engine import Engine, build_empty, warm
from orchestrator.train.models.recompute import recompute_activations
from orchestrator.train.tasks.causal_lm import CausalLM
from orchestrator.train.tasks.task import Measured
from tests.fakes.gang import run_gang
from tests.fakes.memory_source import MemorySource
from tests.fakes.own_blocks import OwnModel
from tests.fakes.small_runs import GPT2, ScriptedHelm, small_config, train_small
from tests.fakes.tiny_model import gather, in_world, tiny_config

DROPOUT = GPT2 | {"attn_pdrop": 0.2, "resid_pdrop": 0.2, "embd_pdrop": 0.2}
STAGES = (0, 1, 2, 3)
OWN_STAGES = (0, 3)  # where weights are whole, and where they come and go
OFFLOADS = {2: ("offload_optimizer",), 3: ("offload_optimizer", "offload_param")}
SPIKE = {"spike": {"steps": 3, "deviations": 3.0, "least_rise": 0.5}}


class WrongAt(CausalLM):
    """In some steps one rank's losses are multiplied with a factor."""

    step_now, rank = 0, 0
    wrong: dict[int, tuple[int, float]] = {}  # noqa: RUF012 - by step: rank, factor

    def step(self, forward: Any, inputs: Any) -> Measured:
        measured = super().step(forward, inputs)
        rank, factor = self.wrong.get(WrongAt.step_now, (None, 1.0))
        return Measured(loss=measured.loss * factor) if rank == WrongAt.rank else measured


class NoMemoryAt(WrongAt):
    def step(self, forward: Any, inputs: Any) -> Measured:
        if WrongAt.step_now == 1 and WrongAt.rank == 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total of ...")
        return super().step(forward, inputs)


class TellingHelm(ScriptedHelm):
    """Tells the task at which step it is, which a task need not know otherwise."""

    def show(self, step: int, phase: str) -> None:
        super().show(step, phase)
        WrongAt.step_now = step


def run_all(rank: int, size: int, store: Any, folder: Path) -> dict[str, Any]:
    warm("cpu", threads=1)
    results: dict[str, Any] = {}

    def run(name: str, config: Any, **options: Any) -> Any:
        outcome, sink = train_small(rank, size, store, config, folder / name, **options)
        return {"checkpoint": outcome.checkpoint, "rows": sink.rows(), "sink": sink}

    for stage in STAGES:
        for again in (False, True):
            train = {"steps": 2, "checkpoint_activations": again}
            name = f"stage{stage}{again}"
            results[name] = run(name, small_config(DROPOUT, stage=stage, train=train))
            if stage in OWN_STAGES:
                results[f"own {name}"] = train_own_blocks(rank, size, store, stage, again=again)
    for stage, offload in OFFLOADS.items():
        deepspeed = {"zero_optimization": {"stage": stage, **{key: {"device": "cpu"} for key in offload}}}
        config = small_config(DROPOUT, deepspeed=deepspeed, train={"steps": 2})
        results[f"offload{stage}"] = run(f"offload{stage}", config)
    WrongAt.rank = rank
    loop.make_task = lambda config, manifest: WrongAt(config, manifest)  # type: ignore[assignment]
    WrongAt.wrong = {4: (1, 40.0)}
    config = small_config(stage=2, elastic=SPIKE, train={"steps": 6}, checkpoint={"every_steps": 2})
    results["spike"] = run("spike", config, helm=TellingHelm())
    start = folder / "spike" / "step-00000004-g0001"
    results["spike again"] = run("spike", config, helm=TellingHelm(), generation=2, start=start)
    WrongAt.wrong = {2: (1, math.nan), 3: (0, math.inf)}
    results["not finite"] = run("not-finite", small_config(stage=2, train={"steps": 5}), helm=TellingHelm())
    loop.make_task = lambda config, manifest: NoMemoryAt(config, manifest)  # type: ignore[assignment]
    if rank == 0:  # the other would wait for it
        with pytest.raises(TrainingFailed) as caught:
            train_small(0, 1, store, small_config(), folder / "memory", helm=TellingHelm())
        results["memory"] = str(caught.value)
    return results


def train_own_blocks(rank: int, size: int, store: Any, stage: int, *, again: bool) -> dict[Any, list[float]]:
    """Two updates of a module of a user's own; what it has become."""

    def build() -> OwnModel:
        model = OwnModel()
        if again:
            recompute_activations(model)
        return model

    torch.manual_seed(0)
    weights, config = MemorySource.of_module(OwnModel()), tiny_config(stage)
    with in_world(rank, size, store, f"own-{stage}-{again}") as world:
        module = build_empty(build, config, "cpu")
        engine = Engine(module, config=config, world=world, device="cpu", micro_batch=6, accumulation=1)
        engine.insert(weights)
        for step in range(2):
            torch.manual_seed(10 * step + rank)
            engine.backward(engine.forward(features=torch.rand(6, 4)).sum())
            engine.step(lr=0.1)
        trained = gather(engine, world).values
        engine.drop()
    return {place: values.tolist() for place, values in trained.items()}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return run_gang(2, run_all, tmp_path_factory.mktemp("speed"))


def troubles(seen: dict[str, Any]) -> list[TroubleNews]:
    return seen["sink"].of(TroubleNews)


@pytest.mark.parametrize("stage", STAGES)
def test_computing_activations_again_changes_no_bit_with_dropout(ranks, stage):
    one, other = (ranks[0][f"stage{stage}{again}"] for again in (False, True))
    assert one["rows"] == other["rows"]
    kept, again = open_checkpoint(one["checkpoint"]), open_checkpoint(other["checkpoint"])
    for name, info in kept.tensors.items():
        for state in kept.states(name):
            assert torch.equal(kept.read(name, state, 0, info.numel), again.read(name, state, 0, info.numel)), name


@pytest.mark.parametrize("stage", OFFLOADS)
def test_state_in_host_memory_trains_alike(ranks, stage):
    here, there = (ranks[0][name]["rows"] for name in (f"stage{stage}False", f"offload{stage}"))
    assert [row["loss"] for row in there] == pytest.approx([row["loss"] for row in here], rel=1e-6)
    assert all(row["applied"] for row in there)


@pytest.mark.parametrize("stage", OWN_STAGES)
def test_modules_of_ones_own_compute_again_without_changing_a_bit(ranks, stage):
    one, other = (ranks[0][f"own stage{stage}{again}"] for again in (False, True))
    assert one == other


def test_loss_that_leaps_is_told_once_with_what_the_rank_concerned_fed(ranks):
    [news] = troubles(ranks[0]["spike"])
    assert (news.kind, news.step) == ("loss_spike", 4)
    assert [fed.rank for fed in news.fed] == [1]
    assert all(sample.startswith("source0/") for sample in news.fed[0].samples)
    assert "rank 1 fed source0/" in news.describe()
    assert "elastic.spike" in news.describe()
    assert not troubles(ranks[1]["spike"]), "rank 0 tells for all"


def test_a_resumed_run_judges_losses_as_the_unbroken_one(ranks):
    [before], [again] = troubles(ranks[0]["spike"]), troubles(ranks[0]["spike again"])
    assert (again.step, again.reason, again.fed) == (before.step, before.reason, before.fed)


def test_batches_that_are_not_finite_twice_are_told_once_each_and_left_out(ranks):
    told = troubles(ranks[0]["not finite"])
    assert [(news.kind, news.step, [fed.rank for fed in news.fed]) for news in told] == [
        ("not_finite", 2, [1]),
        ("not_finite", 3, [0]),
    ]
    rows = ranks[0]["not finite"]["rows"]
    assert [row["applied"] for row in rows] == [True, True, False, False, True]
    assert [row["samples"] for row in rows] == [10, 10, 0, 0, 10]


def test_out_of_memory_names_the_batch_the_bytes_and_what_to_change(ranks):
    text = ranks[0]["memory"]
    assert text.startswith("step 1: out of memory on rank 0")
    assert "10 sequences of 16 tokens a step = 1 ranks x at most 3 at once x 4 times" in text
    assert "1.50 GiB more were asked for" in text
    assert "-> train.micro_batch=2" in text


def test_speed_and_memory_are_told_every_so_many_steps_and_at_the_end(ranks):
    steps = [news.metrics for news in ranks[0]["spike"]["sink"].of(StepNews)]
    assert ["memory_peak_gb" in metrics for metrics in steps] == [False] * 5 + [True]
    assert 0.01 < steps[-1]["memory_peak_gb"] < 100
    busy, tokens = (sum(metrics[name] for metrics in steps) for name in ("step_s", "tokens"))
    assert steps[-1]["tokens_per_s"] == pytest.approx(tokens / busy)
    assert "mfu" not in steps[-1], "nobody knows the peak of a CPU"
