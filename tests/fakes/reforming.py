"""A rank that is formed again and again in one process, and what that leaves behind."""

import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from torch import nn
from torch.distributed import PrefixStore, Store, distributed_c10d

from orchestrator.checkpoint.slot import Slot
from orchestrator.config.run import RunConfig
from orchestrator.core.words import World
from orchestrator.train.agreement import sum_over_ranks
from orchestrator.train.engine import Engine
from orchestrator.train.reform import Formation
from orchestrator.train.snapshot import Snapper
from tests.fakes.saving import FACTS
from tests.fakes.tiny_model import GLOBAL_BATCH, build_tiny


def formation(
    rank: int, size: int, store: Store, name: str, config: RunConfig, build: Callable[[], nn.Module] = build_tiny
) -> Formation:
    """This rank's place in a world of its own, by name."""
    return Formation(
        world=World.flat(rank, size),
        store=PrefixStore(name, store),
        config=config,
        build=build,
        device="cpu",
        micro_batch=GLOBAL_BATCH // size,
        accumulation=1,
        timeout_s=240.0,
    )


def snap(engine: Engine, world: World, slot: Slot, step: int) -> None:
    """Whole on all ranks when it returns."""
    Snapper(world, 1).take(slot, engine.look(), step, FACTS)
    sum_over_ranks([0.0])


def _read_own_bytes() -> int:
    """Resident, without slots of this and other processes that are mapped."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def footprint() -> dict[str, int]:
    """What this process holds: what grows from world to world is never given back."""
    gc.collect()
    process = psutil.Process()
    return {
        "own bytes": _read_own_bytes(),
        "objects": len(gc.get_objects()),
        "modules": sum(isinstance(thing, nn.Module) for thing in gc.get_objects()),
        "tensors": sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()),
        "threads": threading.active_count(),
        "tasks": len(list(Path("/proc/self/task").iterdir())),
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208 - iterating a Path opens one more
        "sockets": len(process.net_connections("all")),
        "process groups": len(distributed_c10d._world.pg_map),
    }
