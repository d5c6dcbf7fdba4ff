"""A two-layer Llama with odd sizes, tied embeddings, a frozen part and a buffer; its config, batches and step."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed import PrefixStore, Store

from orchestrator.checkpoint.fragments import Fragment
from orchestrator.config.run import RunConfig
from orchestrator.core.words import World
from orchestrator.train.agreement import sum_over_ranks
from orchestrator.train.engine import Engine, StepResult, build_empty, join_world, leave_world
from tests.fakes.memory_source import MemorySource

VOCABULARY, LENGTH, GLOBAL_BATCH = 101, 16, 12


def tiny_config(
    stage: int = 0,
    precision: str = "fp32",
    optim: dict[str, Any] | str = "adamw",
    clip_norm: float | None = 1.0,
    **keys: Any,
) -> RunConfig:
    """A run's config; `keys` go into the deepspeed section (zero_optimization is merged with the stage)."""
    zero = {"stage": stage, **keys.pop("zero_optimization", {})}
    if isinstance(optim, str):
        optim = {"name": optim, "weight_decay": 0.1, **({"momentum": 0.9} if optim == "sgd" else {})}
    return RunConfig.model_validate(
        {
            "name": "tiny",
            "data": {"train": [{"path": "nowhere"}]},
            "prepare": {"tokens": {"train_bpe": 300}},
            "model": {"transformers": {"model_type": "llama"}},
            "optim": optim,
            "train": {"steps": 10, "global_batch": GLOBAL_BATCH, "precision": precision, "clip_norm": clip_norm},
            "deepspeed": {"zero_optimization": zero, **keys},
        }
    )


def with_moving_scale(config: RunConfig) -> RunConfig:
    """fp16 with a loss scale that overflows at once and grows again within a few steps."""
    scale = {"initial_scale_power": 20, "loss_scale_window": 3, "hysteresis": 1}
    return config.model_copy(update={"deepspeed": {**config.deepspeed, "fp16": scale}})


def pretend_fp16_works() -> None:
    """DeepSpeed refuses fp16 on CPUs without fast kernels for it; slow ones will do for a test."""
    from deepspeed.accelerator import get_accelerator

    get_accelerator().is_fp16_supported = lambda: True


def build_tiny() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32,
            intermediate_size=63,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=VOCABULARY,
            max_position_embeddings=64,
            tie_word_embeddings=True,
        )
    )
    model.model.layers[0].mlp.requires_grad_(False)
    model.register_buffer("seen", torch.arange(5.0))
    return model


def initial_source() -> MemorySource:
    torch.manual_seed(0)
    return MemorySource.of_module(build_tiny())


@contextmanager
def in_world(rank: int, size: int, store: Store, name: str) -> Iterator[World]:
    """One formed world; `name` keeps the keys of several worlds on one store apart."""
    world = World.flat(rank, size)
    join_world(world, "cpu", PrefixStore(name, store), timeout_s=240.0)
    try:
        yield world
    finally:
        leave_world()


def make_engine(config: RunConfig, world: World, micro_batch: int | None = None, accumulation: int = 1) -> Engine:
    module = build_empty(build_tiny, config, "cpu")
    micro_batch = micro_batch or GLOBAL_BATCH // world.data_size // accumulation
    return Engine(module, config=config, world=world, device="cpu", micro_batch=micro_batch, accumulation=accumulation)


def tokens_of(step: int, count: int = GLOBAL_BATCH) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (count, LENGTH), generator=torch.Generator().manual_seed(100 + step))


def train_step(engine: Engine, world: World, step: int, lr: float, accumulation: int = 1) -> tuple[float, StepResult]:
    """One step over an evenly divided global batch; the mean loss over it."""
    micros = tokens_of(step).chunk(world.data_size)[world.data_rank].chunk(accumulation)
    total = 0.0
    for tokens in micros:
        loss = engine.forward(input_ids=tokens, labels=tokens).loss.float() * len(tokens) / GLOBAL_BATCH
        engine.backward(loss * world.data_size)
        total += loss.item()
    return sum_over_ranks([total])[0], engine.step(lr)


def gather(engine: Engine, world: World) -> MemorySource:
    """What all ranks hold, put together on every rank."""
    parts: list[Any] = [None] * world.size
    own = engine.look()
    own.fragments = [Fragment(held.name, held.state, held.start, held.values.clone()) for held in own.fragments]
    torch.distributed.all_gather_object(parts, own)
    return MemorySource.of_ranks(parts)
