"""The engine: gradients of uneven slices, non-finite gradients, empty building, dropping. One gang of three."""

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from orchestrator.core.words import World
from orchestrator.train.agreement import sum_over_ranks
from orchestrator.train.engine import Engine, build_empty, warm
from tests.fakes.gang import run_gang
from tests.fakes.memory_source import MemorySource
from tests.fakes.reforming import footprint
from tests.fakes.tiny_model import (
    VOCABULARY,
    build_tiny,
    gather,
    in_world,
    initial_source,
    make_engine,
    tiny_config,
    tokens_of,
    train_step,
)

STAGES = [0, 1, 2, 3]
WORLDS = [1, 3]
SAMPLES = 7  # 3 does not divide it
CLIP = 0.25
PLAIN_SGD = {"name": "sgd", "lr": 1.0}
CPU = {"device": "cpu"}
NON_FINITE: dict[str, dict[str, Any]] = {
    **{f"stage{stage}-fp32": {"stage": stage} for stage in STAGES},
    **{f"stage{stage}-bf16": {"stage": stage, "precision": "bf16"} for stage in STAGES},
    "stage1-bf16-accumulated-in-fp32": {"stage": 1, "precision": "bf16", "data_types": {"grad_accum_dtype": "fp32"}},
    "stage2-offloaded": {"stage": 2, "precision": "bf16", "zero_optimization": {"offload_optimizer": CPU}},
    "stage3-offloaded": {"stage": 3, "precision": "fp32", "zero_optimization": {"offload_optimizer": CPU}},
}  # fmt: skip


def run_all(rank: int, size: int, store: Any) -> dict[str, Any]:
    warm("cpu", threads=1)
    results: dict[str, Any] = {}
    for world_size in WORLDS:
        if rank < world_size:
            for stage in STAGES:
                with in_world(rank, world_size, store, f"gradient/{world_size}/{stage}") as world:
                    results[f"gradient/{world_size}/{stage}"] = compare_gradient(world, stage)
    for name, keys in NON_FINITE.items():
        with in_world(rank, 3, store, f"non-finite/{name}") as world:
            results[f"non-finite/{name}"] = step_over_nan(world, **keys)
    for stage in STAGES:
        with in_world(rank, 3, store, f"look/{stage}") as world:
            results[f"look/{stage}"] = [losses_with_interludes(world, stage, often) for often in (False, True)]
    with in_world(rank, 3, store, "counting") as world:
        results["counting"] = count_wrongly(world)
    with in_world(rank, 3, store, "empty") as world:
        results["empty"] = describe_empty()
        results["sum"] = sum_over_ranks([2.0**53, float(rank), 0.1])
    results["footprints"] = [reform_and_measure(rank, store, number) for number in range(6)]
    return results


def compare_gradient(world: World, stage: int) -> tuple[float, float, float]:
    """Largest difference from the gradient of one process, that of a clipped one, and the relative one of the norm."""
    source = initial_source()
    wanted, norm = whole_gradient(source)
    errors = []
    for clip_norm in (None, CLIP):
        config = tiny_config(stage, optim=PLAIN_SGD, clip_norm=clip_norm)
        engine = make_engine(config, world, micro_batch=2, accumulation=slots(world) // 2)
        engine.insert(source)
        backward_uneven(engine, world)
        result = engine.step(1.0)
        after = gather(engine, world)
        factor = 1.0 if clip_norm is None else min(1.0, clip_norm / norm)
        found = {place: source.values[place] - after.values[place] for place in wanted}
        errors.append(max(float((found[place] - wanted[place] * factor).abs().max()) for place in wanted))
        engine.drop()
    assert result.applied
    return errors[0], errors[1], abs(result.grad_norm / norm - 1)


def slots(world: World) -> int:
    """Samples a rank computes: its share rounded up to whole micro-batches of two."""
    return 2 * math.ceil(math.ceil(SAMPLES / world.data_size) / 2)


def backward_uneven(engine: Engine, world: World) -> None:
    """This rank's slice of a batch that no world divides, padded with copies of weight zero."""
    tokens = tokens_of(0, SAMPLES)
    first, last = (SAMPLES * place // world.data_size for place in (world.data_rank, world.data_rank + 1))
    padding = slots(world) - (last - first)
    own = torch.cat([tokens[first:last], tokens[last - 1 : last].expand(padding, -1)])
    weights = torch.tensor([1.0] * (last - first) + [0.0] * padding)
    for micro, weight in zip(own.split(2), weights.split(2), strict=True):
        engine.backward(weighted_sum(engine.forward(input_ids=micro).logits, micro, weight) * world.data_size / SAMPLES)


def weighted_sum(logits: torch.Tensor, tokens: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    losses = F.cross_entropy(logits[:, :-1].reshape(-1, VOCABULARY), tokens[:, 1:].reshape(-1), reduction="none")
    return (losses.view(len(tokens), -1).mean(1) * weight).sum()


def whole_gradient(source: MemorySource) -> tuple[dict[tuple[str, str], torch.Tensor], float]:
    """The gradient of the whole batch by torch alone, and its norm."""
    torch.manual_seed(0)
    module = build_tiny()  # the same values as initial_source
    tokens = tokens_of(0, SAMPLES)
    (weighted_sum(module(input_ids=tokens).logits, tokens, torch.ones(SAMPLES)) / SAMPLES).backward()
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    gradient = {(name, "fp32"): parameter.grad.view(-1) for name, parameter in trained.items()}
    return gradient, float(torch.cat(list(gradient.values())).norm())


def step_over_nan(world: World, **keys: Any) -> tuple[bool, bool, bool]:
    """Whether a step with NaN on one rank was applied, whether it left everything as it was, and whether it went on."""
    engine = make_engine(tiny_config(**keys), world)
    engine.insert(initial_source())
    train_step(engine, world, 0, lr=1e-2)
    before = gather(engine, world)
    tokens = tokens_of(1).chunk(world.data_size)[world.data_rank]
    loss = engine.forward(input_ids=tokens, labels=tokens).loss
    engine.backward(loss * (math.nan if world.rank == 1 else 1.0))
    spoilt = engine.step(1e-2)
    untouched = gather(engine, world).same_as(before)
    loss_after, later = train_step(engine, world, 2, lr=1e-2)
    engine.drop()
    return spoilt.applied, untouched, later.applied and math.isfinite(loss_after)


def evaluate(engine: Engine) -> None:
    engine.module.eval()
    with torch.no_grad():
        engine.forward(input_ids=tokens_of(9, 5))
    engine.module.train()


def losses_with_interludes(world: World, stage: int, often: bool) -> list[float]:
    engine = make_engine(tiny_config(stage, "bf16"), world)
    engine.insert(initial_source())
    losses = []
    for step in range(4):
        losses.append(train_step(engine, world, step, lr=1e-2)[0])
        if often:
            engine.look()
            evaluate(engine)
    engine.drop()
    return losses


def count_wrongly(world: World) -> list[str]:
    """What the engine says to steps too early and to a backward too many."""
    engine = make_engine(tiny_config(1), world, micro_batch=2, accumulation=2)
    engine.insert(initial_source())
    tokens = tokens_of(0, 2)

    def backward() -> None:
        engine.backward(engine.forward(input_ids=tokens, labels=tokens).loss)

    problems = []
    for action, allowed in [
        (engine.step, False),
        (backward, True),
        (engine.step, False),
        (backward, True),
        (backward, False),
    ]:
        try:
            action(*([0.1] if action == engine.step else []))
        except RuntimeError as error:
            problems.append(str(error))
        else:
            assert allowed
    engine.drop()
    return problems


def describe_empty() -> tuple[int, int, bool, bool]:
    """Under ZeRO-3: elements kept and elements in the model; whether ties and computed buffers are as built plainly."""
    module: Any = build_empty(build_tiny, tiny_config(3, "bf16"), "cpu")
    plain: Any = build_tiny()
    kept = sum(p.ds_tensor.numel() + p.data.numel() for p in module.parameters())
    tied = module.lm_head.weight is module.model.embed_tokens.weight
    same = torch.equal(module.model.rotary_emb.inv_freq, plain.model.rotary_emb.inv_freq)
    return kept, sum(p.numel() for p in plain.parameters()), tied, same


def reform_and_measure(rank: int, store: Any, number: int) -> dict[str, int]:
    """What one more world, engine and step at stage 3 leave behind."""
    with in_world(rank, 3, store, f"reform/{number}") as world:
        engine = make_engine(tiny_config(3, "bf16"), world)
        engine.insert(initial_source())
        train_step(engine, world, 0, lr=1e-2)
        engine.drop()
    left = footprint()
    del left["own bytes"]  # too little here to tell from noise
    return left


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    ranks = run_gang(3, run_all, deadline_s=240.0)
    first: dict[str, Any] = ranks[0]
    return first


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("world", WORLDS)
def test_uneven_slices_give_the_gradient_of_one_process(results: dict[str, Any], world: int, stage: int) -> None:
    error, clipped_error, norm_error = results[f"gradient/{world}/{stage}"]
    assert error <= 1e-6
    assert clipped_error <= 1e-6
    assert norm_error <= 1e-5


@pytest.mark.parametrize("name", NON_FINITE)
def test_a_gradient_that_is_not_finite_changes_nothing_on_any_rank(results: dict[str, Any], name: str) -> None:
    applied, untouched, went_on = results[f"non-finite/{name}"]
    assert not applied
    assert untouched
    assert went_on


@pytest.mark.parametrize("stage", STAGES)
def test_neither_looking_nor_evaluating_changes_training(results: dict[str, Any], stage: int) -> None:
    never, often = results[f"look/{stage}"]
    assert often == never


def test_backward_and_step_must_come_in_turn(results: dict[str, Any]) -> None:
    at_once, halfway, too_often = results["counting"]
    assert "after 0 of 2" in at_once
    assert "after 1 of 2" in halfway
    assert "more than 2 times" in too_often


def test_zero_3_builds_without_holding_the_model(results: dict[str, Any]) -> None:
    kept, whole, tied, same_buffers = results["empty"]
    assert kept < whole / 3 * 1.05
    assert tied
    assert same_buffers


def test_sums_over_ranks_are_float64(results: dict[str, Any]) -> None:
    assert results["sum"] == [3 * 2.0**53, 3.0, pytest.approx(0.3, rel=1e-15)]


def test_reforming_leaves_nothing_behind(results: dict[str, Any]) -> None:
    assert results["footprints"][5] == results["footprints"][1]
