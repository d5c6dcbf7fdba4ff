"""Another world in the same process: drop the engine, leave, join, build empty, fill from any source, go on.

What a survivor does when ranks are lost or come: the process, its imports and its CUDA context stay, everything else is
made anew. Whatever held up the old world must have been aborted before: nothing here waits for a rank that is gone."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.distributed import Store

from orchestrator.checkpoint.fragments import FragmentSource
from orchestrator.config.run import RunConfig
from orchestrator.core.words import World
from orchestrator.train.engine import Engine, build_empty, join_world, leave_world


@dataclass(frozen=True, kw_only=True, slots=True)
class Formation:
    """A world, this rank's place in it, and the engine that it is to have there."""

    world: World
    store: Store  # of this generation alone: keys of earlier ones would be taken for its own
    config: RunConfig
    build: Callable[[], nn.Module]
    device: str
    micro_batch: int
    accumulation: int
    timeout_s: float


def form(formation: Formation, source: FragmentSource) -> Engine:
    """Join the world with an engine that goes on from the source. All its ranks call it, with equal sources."""
    join_world(formation.world, formation.device, formation.store, formation.timeout_s)
    engine = Engine(
        build_empty(formation.build, formation.config, formation.device),
        config=formation.config,
        world=formation.world,
        device=formation.device,
        micro_batch=formation.micro_batch,
        accumulation=formation.accumulation,
    )
    engine.insert(source)
    return engine


def dissolve(engine: Engine) -> None:
    """Leave the world; nothing of engine and process groups stays. Not collective."""
    engine.drop()
    leave_world()


def reform(engine: Engine, formation: Formation, source: FragmentSource) -> Engine:
    """From the engine's world into another one."""
    dissolve(engine)
    return form(formation, source)
