"""DeepSpeed itself, without Longhaul: trains the tiny model, and saves as people do."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed import Store

from orchestrator.checkpoint.reader import open_checkpoint
from orchestrator.checkpoint.shelf import Address, LocalShelf
from orchestrator.config.model import ModelSection
from orchestrator.config.run import RunConfig
from orchestrator.train.exchange.deepspeed import open_deepspeed, take_in
from tests.fakes.tiny_model import (
    GLOBAL_BATCH,
    build_tiny,
    in_world,
    make_engine,
    pretend_fp16_works,
    tiny_config,
    tokens_of,
    train_step,
)

WORLD = 2
LR, SAVED_AT, STEPS = 1e-2, 3, 6
KEYS: dict[str, dict[str, Any]] = {
    **{f"stage {stage}": {"zero_optimization": {"stage": stage}} for stage in range(4)},
    "stage 0, bf16": {"zero_optimization": {"stage": 0}, "bf16": {"enabled": True}},
    "stage 1, fp32 accumulation": {
        "zero_optimization": {"stage": 1},
        "bf16": {"enabled": True},
        "data_types": {"grad_accum_dtype": "fp32"},
    },
    "stage 2, bf16": {"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}},
    "stage 2, fp16": {"zero_optimization": {"stage": 2}, "fp16": {"enabled": True}},
    "stage 3, bf16, small groups": {
        "zero_optimization": {"stage": 3, "sub_group_size": 5_000},
        "bf16": {"enabled": True},
    },
}


def train_bare(rank: int, size: int, store: Store, folder: Path, kinds: list[str]) -> dict[str, list[float]]:
    """The losses of each kind, saved in the middle under its name."""
    losses = {}
    for kind in kinds:
        with in_world(rank, size, store, f"bare {kind}"):
            losses[kind] = _train(rank, size, folder, kind)
    return losses


def _train(rank: int, size: int, folder: Path, kind: str) -> list[float]:
    import deepspeed

    pretend_fp16_works()
    torch.manual_seed(0)
    module = build_tiny()
    micro_batch = GLOBAL_BATCH // size
    engine = deepspeed.initialize(
        model=module,
        optimizer=torch.optim.AdamW(make_groups(module), lr=LR, betas=(0.9, 0.95)),
        config={
            "train_batch_size": GLOBAL_BATCH,
            "train_micro_batch_size_per_gpu": micro_batch,
            "gradient_clipping": 1.0,
            **KEYS[kind],
        },
        dist_init_required=False,
    )[0]
    losses = []
    for step in range(STEPS):
        if step == SAVED_AT:
            engine.save_checkpoint(str(folder), tag=kind)
        tokens = tokens_of(step).chunk(size)[rank]
        loss = engine(input_ids=tokens, labels=tokens).loss
        engine.backward(loss)
        engine.step()
        mean = loss.detach().float() / size
        torch.distributed.all_reduce(mean)
        losses.append(mean.item())
    engine.destroy()
    return losses


def save_llama(rank: int, size: int, store: Store, folder: Path, keys: dict[str, Any]) -> int:
    """A Llama of transformers after some steps at ZeRO-2; how many."""
    import deepspeed
    from transformers import LlamaConfig, LlamaForCausalLM

    with in_world(rank, size, store, "llama"):
        torch.manual_seed(0)
        module = LlamaForCausalLM(LlamaConfig(**keys))
        batch = {"train_batch_size": 2 * size, "train_micro_batch_size_per_gpu": 2}
        engine = deepspeed.initialize(
            model=module,
            optimizer=torch.optim.AdamW(module.parameters(), lr=LR),
            config=batch | {"zero_optimization": {"stage": 2}},
            dist_init_required=False,
        )[0]
        for step in range(SAVED_AT):
            tokens = tokens_of(step, 2)
            engine.backward(engine(input_ids=tokens, labels=tokens).loss)
            engine.step()
        engine.save_checkpoint(str(folder))
        engine.destroy()
    return SAVED_AT


def make_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Matrices decay, the rest does not."""
    learn = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in learn if parameter.ndim > 1], "weight_decay": 0.1},
        {"params": [parameter for parameter in learn if parameter.ndim == 1], "weight_decay": 0.0},
    ]


# ---- what Longhaul makes of it ----


def tiny(stage: int = 0, precision: str = "fp32", *, build: str = "tests.fakes.tiny_model.build_tiny", **keys):
    config = tiny_config(stage, precision, optim={"name": "adamw", "weight_decay": 0.1, "betas": [0.9, 0.95]}, **keys)
    return config.model_copy(update={"model": ModelSection.model_validate({"custom": {"build": build}})})


def config_of(kind: str) -> RunConfig:
    """The same, said to Longhaul."""
    keys = dict(KEYS[kind])
    precision = next((name for name in ("bf16", "fp16") if name in keys), "fp32")
    keys.pop(precision, None)
    return tiny(keys["zero_optimization"]["stage"], precision, **keys)


def take_all(bare: Path, kinds: list[str], folder: Path) -> dict[str, Address]:
    """A checkpoint of each kind."""
    found = {}
    for kind in kinds:
        state = open_deepspeed(bare / kind, config_of(kind), None).state
        found[kind] = take_in(state, config_of(kind), ["one"], LocalShelf(folder / kind), generation=1)
    return found


def go_on(rank, size, store, goals) -> list[list[float]]:
    """Losses of the remaining steps of each (checkpoint, config)."""
    found = []
    for number, (path, config) in enumerate(goals):
        with in_world(rank, size, store, f"on {number} {size}") as world:
            pretend_fp16_works()
            reader = open_checkpoint(path)
            engine = make_engine(config, world)
            engine.insert(reader)
            reader.close()
            found.append([train_step(engine, world, step, LR)[0] for step in range(reader.step, STEPS)])
            engine.drop()
    return found
