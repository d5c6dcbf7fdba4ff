"""The formulae, by hand and against real engines."""

from functools import partial
from typing import Any

import pytest

from orchestrator.config.training import OptimSection
from orchestrator.train.engine import Engine, build_empty, warm
from orchestrator.train.memory import plan_memory, read_offload, state_memory
from orchestrator.train.models.build import build_model, describe_model
from orchestrator.train.models.description import ModelDescription, TensorShape
from orchestrator.train.models.initial import InitialWeights
from orchestrator.train.reshard import inner_optimizer
from tests.fakes.gang import run_gang
from tests.fakes.small_runs import VOCAB, small_config
from tests.fakes.tiny_model import in_world, tokens_of

CASES = [(stage, precision) for stage in (0, 2) for precision in ("fp32", "bf16")]
PADDING = 1024  # bytes by which DeepSpeed rounds a flat tensor up
ADAMW = OptimSection()
THOUSAND = ModelDescription(
    model_type="toy",
    tensors=(TensorShape("layers.0.w", (600,), "trainable"), TensorShape("out.w", (400,), "trainable")),
    tied={},
    layers=1,
    hidden_size=1,
    vocab_size=1,
)


@pytest.mark.parametrize(
    ("stage", "precision", "expected"),
    [  # of 1000 parameters on 4 ranks: parameters, gradients, master, optimizer
        (0, "fp32", (4000, 4000, 0, 8000)),
        (0, "bf16", (2000, 2000, 4000, 8000)),
        (1, "fp32", (4000, 4000, 1000, 2000)),
        (1, "bf16", (2000, 2000, 1000, 2000)),
        (2, "bf16", (2000, 500, 1000, 2000)),
        (3, "bf16", (500, 500, 1000, 2000)),
        (3, "fp32", (1000, 1000, 0, 2000)),
    ],
)
def test_state_of_each_stage(stage, precision, expected):
    plan = state_memory(THOUSAND, stage=stage, world_size=4, precision=precision, optim=ADAMW)
    assert tuple(plan.device[name] for name in ("parameters", "gradients", "master", "optimizer")) == expected
    assert plan.device["gathered"] == (600 * (2 if precision == "bf16" else 4) if stage == 3 else 0)
    assert plan.device_bytes == sum(plan.device.values())
    assert plan.host_bytes == 0


def test_sgd_keeps_a_momentum_or_nothing():
    for momentum, states in ((0.9, 1), (0.0, 0)):
        optim = OptimSection(name="sgd", momentum=momentum)
        plan = state_memory(THOUSAND, stage=0, world_size=1, precision="fp32", optim=optim)
        assert plan.device["optimizer"] == 4000 * states


def test_offload_moves_state_to_the_host():
    keys = {"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
    config = small_config(stage=3, deepspeed={"zero_optimization": keys})
    assert read_offload(keys) == {"optimizer", "parameters"}
    description = describe_model(config, VOCAB)
    moved, kept = (plan_memory(c, description, 2, 3) for c in (config, small_config(stage=3)))
    assert moved.host["optimizer"] == kept.device["optimizer"]
    assert moved.host["parameters"] == kept.device["parameters"]
    assert moved.device_bytes < kept.device_bytes


def test_gradients_kept_in_fp32_count_four_bytes():
    plan = state_memory(THOUSAND, stage=2, world_size=2, precision="bf16", optim=ADAMW, accumulate="fp32")
    assert plan.device["gradients"] == 2000


def measure(rank: int, size: int, store: Any) -> dict[Any, dict[str, int]]:
    """Bytes that engines of a small model really hold."""
    warm("cpu", threads=1)
    found = {}
    for stage, precision in CASES:
        config = small_config(stage=stage, train={"precision": precision})
        with in_world(rank, size, store, f"{stage}{precision}") as world:
            module = build_empty(partial(build_model, config, VOCAB), config, "cpu")
            engine = Engine(module, config=config, world=world, device="cpu", micro_batch=12, accumulation=1)
            engine.insert(InitialWeights(config, VOCAB))
            tokens = tokens_of(0)
            loss = engine.forward(input_ids=tokens, use_cache=False).logits.float().logsumexp(-1).mean()
            engine.backward(loss)
            found[stage, precision] = count_bytes(engine)
            engine.step(1e-3)
            found[stage, precision] |= count_states(engine)
            engine.drop()
    return found


def count_bytes(engine: Engine) -> dict[str, int]:
    parameters = list(engine.module.parameters())
    optimizer = engine._engine.optimizer
    partitions = getattr(optimizer, "averaged_gradients", {}).values()
    gradients = [g for partition in partitions for g in partition] or [p.grad for p in parameters]
    low = {parameter.data_ptr() for parameter in parameters}
    held = [p for group in inner_optimizer(optimizer).param_groups for p in group["params"]]
    return {
        "parameters": sum(parameter.nbytes for parameter in parameters),
        "gradients": sum(gradient.nbytes for gradient in gradients),
        "master": sum(parameter.nbytes for parameter in held if parameter.data_ptr() not in low),
    }


def count_states(engine: Engine) -> dict[str, int]:
    states = inner_optimizer(engine._engine.optimizer).state.values()
    return {"optimizer": sum(v.nbytes for state in states for v in state.values() if v.ndim)}


def test_formulae_agree_with_what_engines_hold():
    (found,) = run_gang(1, measure)
    description = describe_model(small_config(), VOCAB)
    for (stage, precision), held in found.items():
        planned = plan_memory(small_config(train={"precision": precision}), description, 1, stage).device
        for purpose, held_bytes in held.items():
            assert 0 <= held_bytes - planned[purpose] <= PADDING, (stage, precision, purpose)
