"""A small Llama that is formed again and again in one process, and what that leaves behind."""

import gc
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from torch.distributed import PrefixStore, Store, distributed_c10d

from orchestrator.config.run import RunConfig
from orchestrator.core.words import World
from orchestrator.train.models.build import build_model
from orchestrator.train.reform import Formation
from tests.fakes.small_runs import LLAMA, small_config

WORDS = 300
BATCH = 12


def formation(
    rank: int,
    size: int,
    store: Store,
    name: str,
    *,
    stage: int,
    model: dict[str, Any] = LLAMA,
    **train: Any,
) -> Formation:
    """This rank's place in a world of its own, by name."""
    config: RunConfig = small_config(model, stage=stage, train=train)
    return Formation(
        world=World.flat(rank, size),
        store=PrefixStore(name, store),
        config=config,
        build=partial(build_model, config, WORDS),
        device="cpu",
        micro_batch=BATCH // size,
        accumulation=1,
        timeout_s=240.0,
    )


def footprint() -> dict[str, int]:
    """What this process holds: what grows from world to world is never given back."""
    gc.collect()
    process = psutil.Process()
    return {
        "resident bytes": process.memory_info().rss,
        "modules": sum(isinstance(thing, nn.Module) for thing in gc.get_objects()),
        "tensors": sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()),
        "threads": threading.active_count(),
        "tasks": len(list(Path("/proc/self/task").iterdir())),
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208 - iterating a Path opens one more
        "sockets": len(process.net_connections("all")),
        "process groups": len(distributed_c10d._world.pg_map),
    }


def repeat(times: int, once: Callable[[int], None]) -> list[dict[str, int]]:
    """The footprint after each time."""
    found = []
    for number in range(times):
        once(number)
        found.append(footprint())
    return found
