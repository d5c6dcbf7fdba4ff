"""What the trainer is given and what it gives back. Made by control/rank.py, used by loop.py."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from orchestrator.checkpoint.reader import StateReader
from orchestrator.checkpoint.shelf import Address
from orchestrator.checkpoint.vault import Vault
from orchestrator.config.run import RunConfig
from orchestrator.core.clock import Clock
from orchestrator.core.drill import Drill
from orchestrator.core.errors import ConfigError
from orchestrator.core.news import Helm, Sink
from orchestrator.core.words import Excerpt, RunState, World
from orchestrator.data.shards.manifest import Manifest
from orchestrator.train.slices import micro_batches_needed


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """Everything a rank trains with. The world has been joined."""

    config: RunConfig
    manifest: Manifest
    world: World
    generation: int
    device: str
    micro_batch: int
    accumulation: int
    checkpoints: Path  # where they lie, if the config names no store
    skips_file: Path  # what the run leaves out; the scribe appends to it
    start: Address | StateReader | None  # a checkpoint, or a snapshot; None begins with the initial weights
    sink: Sink
    helm: Helm
    clock: Clock
    vault: Vault | None = None  # None: one of this process alone
    wandb_run_id: str | None = None  # written into checkpoints
    excerpt: Excerpt | None = None  # of the run, to be looked at; None: the run itself
    join_s: float = 0.0  # what joining the world took
    leave_at: int | None = None  # leave this world when so many updates are done
    interruptible: Callable[[], AbstractContextManager[None]] = nullcontext  # around what may be broken off anywhere
    drill: Drill = Drill()  # noqa: RUF009 - it is frozen. What goes wrong on purpose

    @property
    def stop_step(self) -> int:
        """Training ends before this one."""
        return self.config.train.num_steps if self.excerpt is None else self.excerpt.stop_step


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How training ended, after `step` updates: done, stopped, or (RUNNING) having left this world for the next one."""

    state: RunState
    step: int
    checkpoint: Address | None
    reason: str = ""  # why it is done early; or what this rank stopped for unasked: a store that is down; or left for
    back_to: int | None = None  # left, to go on from the newest state of at most so many updates


def check_slices(job: TrainJob) -> None:
    """Every phase's batch must fit into the micro-batches that the engine was told of."""
    batches = [job.config.train.global_batch, *(phase.global_batch or 0 for phase in job.config.data.phases)]
    needed = micro_batches_needed(max(batches), job.world.data_size, job.micro_batch)
    if needed > job.accumulation:
        raise ConfigError(
            f"{max(batches)} samples a step on {job.world.data_size} ranks need {needed} micro-batches of "
            f"{job.micro_batch} on each, planned were {job.accumulation}",
            where="train.micro_batch",
        )
