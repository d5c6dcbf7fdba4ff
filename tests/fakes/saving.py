"""A model of made-up tensors, cut over ranks in any way, and a save in which every rank is a thread."""

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

import torch

from orchestrator.checkpoint.fragments import MASTER, VALUE, Fragment, RankState, TensorInfo
from orchestrator.checkpoint.layout import CheckpointFacts
from orchestrator.checkpoint.writer import SavedCheckpoint, SaveProblem, save_checkpoint

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


class Ballot:
    """The barrier of a world of threads: says whether all came with ok."""

    def __init__(self, world: int) -> None:
        self._votes = [True] * world
        self._barrier = threading.Barrier(world)

    def of_rank(self, rank: int) -> Callable[[bool], bool]:
        def vote(ok: bool) -> bool:
            self._votes[rank] = ok
            self._barrier.wait(30)
            all_ok = all(self._votes)
            self._barrier.wait(30)
            return all_ok

        return vote


def save_all(
    folder: Path, ranks: list[RankState], step: int = 7, generation: int = 2, facts: CheckpointFacts = FACTS
) -> list[SavedCheckpoint | SaveProblem]:
    """What every rank got back."""
    ballot = Ballot(len(ranks))

    def save(rank: int) -> SavedCheckpoint | SaveProblem:
        return save_checkpoint(
            folder,
            step=step,
            generation=generation,
            rank=rank,
            world_size=len(ranks),
            state=ranks[rank],
            facts=facts,
            barrier=ballot.of_rank(rank),
        )

    if len(ranks) == 1:
        return [save(0)]  # without a thread, so that a test can kill or fail it
    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(save, range(len(ranks))))
