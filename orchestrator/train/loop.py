"""The training loop of one rank: from a start to the last step, or to the word to stop.

Comes after control/rank.py has joined the world; feeds train/engine.py from data/stream.py, and tells news. Every number
follows from config, manifest, step and the fragments; nothing else is remembered from step to step."""

import math
import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from orchestrator.checkpoint.fragments import FragmentSource
from orchestrator.checkpoint.keep import prune
from orchestrator.checkpoint.layout import CheckpointFacts
from orchestrator.checkpoint.reader import open_checkpoint
from orchestrator.checkpoint.writer import SavedCheckpoint, SaveProblem, save_checkpoint
from orchestrator.config.compare import run_hash
from orchestrator.config.run import RunConfig
from orchestrator.core.clock import Clock
from orchestrator.core.errors import ConfigError, TrainingFailed
from orchestrator.core.keyed import key, text_key
from orchestrator.core.news import CheckpointNews, EvaluationNews, Helm, KeysNews, Sink, StepNews
from orchestrator.core.words import RunState, Word, World
from orchestrator.data.batch import RankBatch
from orchestrator.data.manifest import Manifest
from orchestrator.data.order import Order
from orchestrator.data.read import TokenReader
from orchestrator.data.skips import Skips
from orchestrator.data.stream import Stream
from orchestrator.train.engine import Engine, StepResult, build_empty, sum_over_ranks
from orchestrator.train.evaluate import SPLIT, Validation
from orchestrator.train.figures import StepFigures
from orchestrator.train.models import build_model
from orchestrator.train.schedule import learning_rate
from orchestrator.train.slices import cut_micro_batches, micro_batches_needed
from orchestrator.train.tasks import TASKS, Task
from orchestrator.train.weights import initial_source

FORWARD = text_key("random numbers of the forward pass")
UNAPPLIED_LIMIT = 3  # updates in a row that are not finite


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
    checkpoints: Path
    start: Path | None  # the checkpoint to go on from; None begins with the initial weights
    sink: Sink
    helm: Helm
    clock: Clock
    skips: Skips = field(default_factory=Skips)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How training ended: done or stopped, after `step` updates."""

    state: RunState
    step: int
    checkpoint: Path | None


def train(job: TrainJob) -> Outcome:
    """Train until done or stopped. All ranks of the world call it with equal jobs, their places apart."""
    trainer = Trainer(job)
    try:
        trainer.start()
        return trainer.train()
    finally:
        trainer.close()


class Trainer:
    def __init__(self, job: TrainJob) -> None:
        config = job.config
        # what is trained on what
        self.job, self.config, self.world = job, config, job.world
        self.device = torch.device(job.device)
        self.task: Task = TASKS[config.task.name]()
        self.order = Order.of(config, job.manifest)
        self.epoch_steps = self.order.epoch_steps(0)
        self.validation = (
            Validation(config, job.manifest, job.world, job.micro_batch) if config.evaluate.every_steps else None
        )
        # where it stands
        self.step = 0
        self.checkpoint = job.start
        self.unapplied = 0  # updates in a row
        # what it works with, made by start()
        self.engine: Engine | None = None
        self.stream: Stream | None = None
        self.batch: RankBatch | None = None
        self.batch_weight = 0.0  # of the whole global batch

    # ---- the loop ----

    def train(self) -> Outcome:
        steps, heard_stop = self.config.train.steps, False
        while self.step < steps and not heard_stop:
            heard_stop = self.train_step()
            validation_loss = self.validate() if self.is_due(self.config.evaluate.every_steps) else None
            if heard_stop or self.is_due(self.config.checkpoint.every_steps):
                self.save(validation_loss)
        state = RunState.DONE if self.step == steps else RunState.STOPPED
        return Outcome(state=state, step=self.step, checkpoint=self.checkpoint)

    def train_step(self) -> bool:
        """One update, and what all ranks agree on after it: whether any has heard the word to stop."""
        began = self.job.clock.monotonic()
        batch, weight = self.batch, self.batch_weight
        assert batch is not None
        assert self.stream is not None
        self.job.helm.show(self.step, "step")
        loss_sum, result = self.update(batch, weight)

        self.job.helm.show(self.step, "data")
        self.batch = next(self.stream, None)

        agreed = StepFigures(
            loss_sum=loss_sum,
            next_weight=self.batch.weight if self.batch else 0.0,
            count=batch.count,
            stop_votes=int(self.job.helm.word() is Word.STOP),
            wait_s=self.stream.wait_s,
            sums=batch.sums,
        ).add_over_ranks()
        self.batch_weight = agreed.next_weight

        step_s = self.job.clock.monotonic() - began
        self.tell_step(batch, weight, result, agreed, step_s)
        self.check_finite(batch, weight, result, agreed.loss_sum)
        self.step += 1
        return agreed.stop_votes > 0

    def update(self, batch: RankBatch, weight: float) -> tuple[float, StepResult]:
        """Forward, backward, optimizer: this rank's sum of losses, and what became of the update on all ranks."""
        if not weight:  # the whole batch is skipped: a void step
            return 0.0, StepResult(applied=False, grad_norm=0.0)
        engine = self.the_engine
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for micro in cut_micro_batches(batch, self.job.accumulation):
            torch.manual_seed(int(key(self.config.seed, FORWARD, self.step, micro.slot)))
            loss_sum = self.task.loss(engine.forward, self.task.collate(micro.fields, self.device))
            # gradients are averaged over ranks: times their number, so that it is the mean over the global batch
            engine.backward(loss_sum * (self.world.data_size / weight))
            total += loss_sum.detach()
        result = engine.step(
            learning_rate(self.config.schedule, self.config.optim.lr, self.step, self.config.train.steps)
        )
        return total.item(), result
