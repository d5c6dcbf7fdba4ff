"""A model of made-up tensors, cut over ranks in any way, and a checkpoint that all these ranks write."""

import random
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

import torch

from orchestrator.checkpoint.fragments import MASTER, VALUE, Fragment, RankState, TensorInfo
from orchestrator.checkpoint.layout import CheckpointFacts
from orchestrator.checkpoint.shelf import Shelf
from orchestrator.checkpoint.slot import Slot
from orchestrator.checkpoint.vault import Committed
from orchestrator.checkpoint.writer import commit, remove_uncommitted, write_part
from orchestrator.core.errors import CheckpointDamaged
from orchestrator.core.words import World
from orchestrator.train.snapshot import Snapper

Kind = Literal["trainable", "frozen", "buffer"]
TensorSpec = tuple[tuple[int, ...], Kind, str]  # shape, kind, dtype

FACTS = CheckpointFacts(
    zero_stage=2,
    config_hash="c0ffee",
    chain=("segment-0", "segment-1"),
    skips=({"step": 3, "reason": "hole"},),
    wandb_run_id="abcd1234",
    validation_loss=2.5,
)


@dataclass
class MadeUpModel:
    infos: dict[str, TensorInfo]
    values: dict[tuple[str, str], torch.Tensor]  # by name and state, flat


def make_model(specs: list[TensorSpec], seed: int = 0) -> MadeUpModel:
    generator = torch.Generator().manual_seed(seed)
    infos, values = {}, {}
    for i, (shape, kind, dtype) in enumerate(specs):
        name = f"layers.{i}/odd name.weight"
        infos[name] = TensorInfo(shape, dtype, kind)
        states = {MASTER: "float32", "exp_avg": "float32"} if kind == "trainable" else {VALUE: dtype}
        for state, its_dtype in states.items():
            numbers = torch.randint(-100, 100, (prod(shape),), generator=generator)
            values[name, state] = numbers.to(getattr(torch, its_dtype))
    return MadeUpModel(infos, values)


def small_model(seed: int = 0) -> MadeUpModel:
    return make_model(
        [((5, 7), "trainable", "bfloat16"), ((), "trainable", "float32"), ((3,), "buffer", "int64")], seed
    )


def split(model: MadeUpModel, world: int, chance: random.Random) -> list[RankState]:
    """Every element on exactly one rank; a rank may hold several stretches of one state, or nothing."""
    ranks = [RankState([], model.infos, {}, {"loss_scale": 65536.0}) for _ in range(world)]
    for (name, state), values in model.values.items():
        inner = range(1, values.numel())
        cuts = sorted(chance.sample(inner, min(len(inner), chance.randint(0, world))))
        for start, end in zip([0, *cuts], [*cuts, values.numel()], strict=True):
            rank = ranks[chance.randrange(world)]
            rank.fragments.append(Fragment(name, state, start, values[start:end].clone()))
            rank.scalars[name] = {"step": 7.0}
    return ranks


def fill_slot(
    state: RankState, rank: int, world_size: int, step: int = 7, generation: int = 2, facts: CheckpointFacts = FACTS
) -> Slot:
    """A rank's part of a snapshot, sealed."""
    slot = Slot.create("test")
    Snapper(World.flat(rank, world_size), generation).take(slot, state, step, facts)
    slot.seal()
    return slot


def save_all(
    kept: Shelf | Path, ranks: list[RankState], step: int = 7, generation: int = 2, facts: CheckpointFacts = FACTS
) -> Committed:
    """What all ranks together do, in this thread, so that a test can kill or fail it."""
    slots = [fill_slot(state, rank, len(ranks), step, generation, facts) for rank, state in enumerate(ranks)]
    try:
        for slot in slots:
            write_part(kept, slot)
        path, size_bytes = commit(kept, slots[0].part())
    except (OSError, CheckpointDamaged) as error:
        remove_uncommitted(kept, slots[0].part())
        return Committed(step=step, problem=f"checkpoint not written: {error}")
    finally:
        for slot in slots:
            slot.close()
    return Committed(step=step, path=str(path), size_bytes=size_bytes)
