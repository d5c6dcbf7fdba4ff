"""Models of every kind through engines: equal on all worlds and stages, frozen to the bit, statistics kept alike.

One gang of two goes through all cases once."""

import math
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from orchestrator.config.run import RunConfig
from orchestrator.core.words import World
from orchestrator.train.agreement import sum_over_ranks
from orchestrator.train.engine import Engine, build_empty, warm
from orchestrator.train.models.build import build_model
from orchestrator.train.models.initial import initial_source
from orchestrator.train.models.tensors import own_tensors
from orchestrator.train.tasks.task import logits_of
from tests.fakes.gang import run_gang
from tests.fakes.memory_source import MemorySource
from tests.fakes.small_models import KINDS, TABULAR, draw_inputs, model_config
from tests.fakes.small_runs import LLAMA, VOCAB
from tests.fakes.tiny_model import gather, in_world

STAGES = [0, 1, 2, 3]
SAMPLES = 6
NORMED = {"custom": {"build": "tests.fakes.small_models.WithBatchNorm", "args": {"inputs": 5, "outputs": 3}}}
LORA: dict[str, Any] = {"rank": 2, "targets": "linear"}
FROZEN = {"freeze": ["first.*"]}
LM = {"name": "causal_lm", "seq_len": 12}


def run_all(rank: int, size: int, store: Any, folder: Path) -> bytes:
    warm("cpu", threads=1)
    results: dict[str, Any] = {}
    for name, (model, task) in KINDS.items():
        if rank == 0:
            with in_world(0, 1, store, f"{name}/one") as world:
                results[f"{name}/one"] = train(model_config(model, task), world)
        with in_world(rank, size, store, f"{name}/two") as world:
            results[f"{name}/two"] = train(model_config(model, task, stage=3), world)
    for stage in STAGES:
        with in_world(rank, size, store, f"frozen/{stage}") as world:
            results[f"frozen/{stage}"] = train(model_config(NORMED | FROZEN, TABULAR, stage=stage), world)
        with in_world(rank, size, store, f"lora/{stage}") as world:
            model = {"transformers": LLAMA, "weights": str(folder / "base.safetensors"), "lora": LORA}
            results[f"lora/{stage}"] = train(model_config(model, LM, stage=stage), world)
    with in_world(rank, size, store, "normed") as world:
        results["normed"] = train_normed(model_config(NORMED, TABULAR), world)
    return pickle.dumps(results)  # tensors in it would be shared with a process that ends


def train(config: RunConfig, world: World) -> tuple[MemorySource, MemorySource, bool, list[float]]:
    """State at step 0 and after two steps; whether it comes back through another engine; the losses."""
    engine = make_engine(config, world)
    engine.insert(initial_source(config, VOCAB))
    first = gather(engine, world)
    losses = [step(engine, config, world, number) for number in range(2)]
    last = gather(engine, world)
    engine.drop()
    return first, last, world.size == 1 or comes_back(config, world, last), losses


def comes_back(config: RunConfig, world: World, state: MemorySource) -> bool:
    engine = make_engine(config, world)
    engine.insert(state)
    same = gather(engine, world).same_as(state)
    engine.drop()
    return same


def make_engine(config: RunConfig, world: World) -> Engine:
    module = build_empty(partial(build_model, config, VOCAB), config, "cpu")
    return Engine(
        module, config=config, world=world, device="cpu", micro_batch=SAMPLES // world.data_size, accumulation=1
    )


def step(engine: Engine, config: RunConfig, world: World, number: int, spoil: float = 1.0) -> float:
    loss = own_loss(engine, config, world, number)
    engine.backward(loss * world.data_size * spoil)
    engine.step(0.05)
    return sum_over_ranks([loss.item()])[0]


def own_loss(engine: Engine, config: RunConfig, world: World, number: int) -> torch.Tensor:
    """This rank's part of the mean loss of a global batch."""
    inputs, targets = draw_inputs(config.task.model_dump(), SAMPLES, number)
    inputs = {name: tensor.chunk(world.data_size)[world.data_rank] for name, tensor in inputs.items()}
    targets = targets.chunk(world.data_size)[world.data_rank]
    logits = logits_of(engine.forward(**inputs)).flatten(0, -2)
    return functional.cross_entropy(logits, targets.flatten()) / world.data_size


def train_normed(config: RunConfig, world: World) -> dict[str, Any]:
    """Running statistics of each rank after a step, those worked out by hand, and after a step with NaN."""
    engine = make_engine(config, world)
    engine.insert(initial_source(config, VOCAB))
    before = buffers(engine)
    inputs, _ = draw_inputs(config.task.model_dump(), SAMPLES, 0)
    with torch.no_grad():
        rows = engine.module.first[0](inputs["features"])
    step(engine, config, world, 0)
    kept = buffers(engine)
    step(engine, config, world, 1, spoil=math.nan)
    spoilt = buffers(engine)
    everybody: list[Any] = [None] * world.size
    torch.distributed.all_gather_object(everybody, kept)
    engine.drop()
    return {"before": before, "rows": rows, "ranks": everybody, "spoilt": spoilt}


def buffers(engine: Engine) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in own_tensors(engine.module) if not isinstance(t, torch.nn.Parameter)}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(3)
    base = build_model(model_config({"transformers": LLAMA}, LM), VOCAB)
    save_file({name: torch.randn(t.shape) / 8 for name, t in own_tensors(base)}, folder / "base.safetensors")
    ranks = run_gang(2, run_all, folder, deadline_s=240.0)
    first: dict[str, Any] = pickle.loads(ranks[0])
    return first


@pytest.mark.parametrize("name", KINDS)
def test_every_model_begins_equal_to_the_bit_on_any_world_and_stage(results: dict[str, Any], name: str) -> None:
    one, two = results[f"{name}/one"][0], results[f"{name}/two"][0]
    assert two.same_as(one)
    assert all(values.isfinite().all() for values in one.values.values())
    head = {"llama": "score", "mixtral": "lm_head"}.get(name, "output")
    assert one.values[f"{head}.weight", "fp32"].unique().numel() > 8


@pytest.mark.parametrize("name", KINDS)
def test_every_model_learns_at_stage_3_what_it_learns_in_one_process(results: dict[str, Any], name: str) -> None:
    _, one, _, one_losses = results[f"{name}/one"]
    first, two, came_back, two_losses = results[f"{name}/two"]
    assert two_losses == pytest.approx(one_losses, rel=1e-5)
    masters = {place for place in one.values if place[1] == "fp32"}
    assert all(torch.allclose(two.values[place], one.values[place], rtol=1e-3, atol=2e-4) for place in masters)
    assert any(not torch.equal(two.values[place], first.values[place]) for place in masters)
    assert came_back


@pytest.mark.parametrize("stage", STAGES)
def test_frozen_weights_and_their_statistics_stay_to_the_bit(results: dict[str, Any], stage: int) -> None:
    first, last, came_back, _ = results[f"frozen/{stage}"]
    for (name, state), values in first.values.items():
        same = torch.equal(values, last.values[name, state])
        assert same == (name.startswith("first.") or name == "constant"), name
    assert {state for name, state in last.values if name.startswith("first.")} == {"value"}
    assert came_back


@pytest.mark.parametrize("stage", STAGES)
def test_adapters_learn_beside_weights_that_stay_to_the_bit(results: dict[str, Any], stage: int) -> None:
    first, last, came_back, _ = results[f"lora/{stage}"]
    assert first.same_as(results["lora/0"][0])
    for (name, state), values in first.values.items():
        assert torch.equal(values, last.values[name, state]) == (".lora_" not in name), name
        assert state == ("fp32" if ".lora_" in name else "value")
    assert came_back
    begins = {name: values for (name, _), values in first.values.items() if ".lora_" in name}
    assert all((values == 0).all() == (".lora_B." in name) for name, values in begins.items())
    assert len(begins) == 2 * 7 * 2  # seven linear modules in each of two layers


def test_batch_statistics_are_those_of_all_ranks_after_every_step(results: dict[str, Any]) -> None:
    found = results["normed"]
    mine, other = found["ranks"]
    assert all(torch.equal(mine[name], other[name]) for name in mine)
    halves = found["rows"].chunk(2)
    mean = torch.stack([half.mean(0) for half in halves]).mean(0)
    variance = torch.stack([half.var(0) for half in halves]).mean(0)
    assert torch.allclose(mine["first.1.running_mean"], 0.1 * mean, atol=1e-6)
    assert torch.allclose(mine["first.1.running_var"], 0.9 + 0.1 * variance, atol=1e-6)
    assert mine["first.1.num_batches_tracked"] == 1
    assert torch.equal(mine["constant"], found["before"]["constant"])


def test_what_an_update_that_is_not_applied_has_seen_is_forgotten(results: dict[str, Any]) -> None:
    kept, spoilt = results["normed"]["ranks"][0], results["normed"]["spoilt"]
    assert torch.equal(spoilt["first.1.running_mean"], kept["first.1.running_mean"])
