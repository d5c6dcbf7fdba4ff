"""The training loop of one rank: from a start to the last step, or to the word to stop.

Comes after control/rank.py has joined the world; feeds train/engine.py from data/stream.py, and tells news. Every
number follows from config, manifest, step and the fragments; nothing else is remembered from step to step."""

import math
import os
from functools import partial

import numpy as np
import torch

from orchestrator.checkpoint.fragments import FragmentSource
from orchestrator.checkpoint.reader import CheckpointReader, open_checkpoint
from orchestrator.config.compare import run_hash
from orchestrator.core.errors import ConfigError, TrainingFailed
from orchestrator.core.keyed import key, text_key
from orchestrator.core.news import EvaluationNews, KeysNews, Number, StepNews
from orchestrator.core.words import RunState, Word
from orchestrator.data.batch import RankBatch
from orchestrator.data.order import Order
from orchestrator.data.read import TokenReader
from orchestrator.data.stream import Stream
from orchestrator.train.engine import Engine, StepResult, build_empty, sum_over_ranks
from orchestrator.train.evaluate import SPLIT, Validation
from orchestrator.train.figures import StepFigures
from orchestrator.train.job import Outcome, TrainJob, check_slices
from orchestrator.train.models import build_model
from orchestrator.train.save import save
from orchestrator.train.schedule import learning_rate
from orchestrator.train.slices import cut_micro_batches
from orchestrator.train.stopwatch import Stopwatch
from orchestrator.train.tasks import TASKS, Task
from orchestrator.train.weights import initial_source

__all__ = ["Outcome", "TrainJob", "train"]  # what a rank needs

FORWARD = text_key("random numbers of the forward pass")
UNAPPLIED_LIMIT = 3  # updates in a row that are not finite


def train(job: TrainJob) -> Outcome:
    """Train until done or stopped. All ranks of the world call it with equal jobs, their places apart."""
    job.helm.show(0, "start")
    check_slices(job)
    trainer = Trainer(job)
    try:
        return trainer.train()
    finally:
        trainer.close()


class Trainer:
    def __init__(self, job: TrainJob) -> None:
        config, manifest = job.config, job.manifest
        # what is trained on what
        self.job, self.config, self.world, self.helm = job, config, job.world, job.helm
        self.device = torch.device(job.device)
        self.task: Task = TASKS[config.task.name]()
        self.order = Order.of(config, manifest)
        self.epoch_steps = self.order.epoch_steps(largest_source(self.order))
        self.validation = (
            Validation(config, manifest, job.world, job.micro_batch) if config.evaluate.every_steps else None
        )

        # where it stands
        self.step, source = open_start(job)
        self.checkpoint = job.start
        self.unapplied = 0  # updates in a row

        # what it works with
        if config.train.deterministic:
            use_deterministic_kernels()
        build = partial(build_model, config, manifest.tokenizer.vocab_size)
        self.engine = Engine(
            build_empty(build, config, job.device),
            config=config,
            world=job.world,
            device=job.device,
            micro_batch=job.micro_batch,
            accumulation=job.accumulation,
        )
        self.forward_time = Stopwatch(self.device)
        self.engine.insert(source)
        if isinstance(source, CheckpointReader):
            source.close()
        self.stream = Stream(
            self.order,
            TokenReader(manifest, "train"),
            job.world,
            first_step=self.step,
            stop_step=config.train.steps,
            skips=job.skips,
            prefetch_bytes=config.data.prefetch_bytes,
        )
        self.batch = next(self.stream, None)
        (self.batch_weight,) = sum_over_ranks([weight_of(self.batch)])

    def close(self) -> None:
        self.stream.close()
        self.engine.drop()

    # ---- the loop ----

    def train(self) -> Outcome:
        steps, heard_stop = self.config.train.steps, False
        while self.step < steps and not heard_stop:
            heard_stop = self.train_step()
            validation_loss = self.validate() if self.is_due(self.config.evaluate.every_steps) else None
            if heard_stop or self.is_due(self.config.checkpoint.every_steps):
                self.helm.show(self.step, "checkpoint")
                self.checkpoint = save(self.job, self.engine, self.step, validation_loss) or self.checkpoint
        state = RunState.DONE if self.step == steps else RunState.STOPPED
        return Outcome(state=state, step=self.step, checkpoint=self.checkpoint)

    def train_step(self) -> bool:
        """One update, and what all ranks agree on after it: whether one of them has heard the word to stop."""
        began = self.job.clock.monotonic()
        batch, weight = self.batch, self.batch_weight
        assert batch is not None
        self.helm.show(self.step, "step")
        loss_sum, result = self.update(batch, weight)

        self.helm.show(self.step, "data")
        self.batch = next(self.stream, None)
        agreed = StepFigures(
            loss_sum=loss_sum,
            next_weight=weight_of(self.batch),
            count=batch.count,
            stop_votes=int(self.helm.word() is Word.STOP),
            wait_s=self.stream.wait_s,
            sums=batch.sums,
        ).add_over_ranks()
        self.batch_weight = agreed.next_weight
        if weight:
            self.helm.show_busy(self.forward_time.seconds + self.stream.wait_s)

        self.tell_step(batch, weight, result, agreed, step_s=self.job.clock.monotonic() - began)
        if weight:
            self.check_finite(batch, result, loss_sum, agreed.loss_sum)
        self.step += 1
        return agreed.stop_votes > 0

    def update(self, batch: RankBatch, weight: float) -> tuple[float, StepResult]:
        """Forward, backward, optimizer: this rank's sum of losses, and what became of the update on all ranks."""
        if not weight:  # every sample of the step is skipped: a void step
            return 0.0, StepResult(applied=False, grad_norm=0.0)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for number, micro in enumerate(cut_micro_batches(batch, self.job.accumulation)):
            torch.manual_seed(int(key(self.config.seed, FORWARD, self.step, micro.slot)))
            if number == 0:  # the first backward waits for other ranks; this forward, below ZeRO-3, does not
                self.forward_time.start()
            loss_sum = self.task.loss(self.engine.forward, self.task.collate(micro.fields, self.device))
            if number == 0:
                self.forward_time.stop()
            # the engine averages over ranks; with this factor the outcome is the mean over the global batch
            self.engine.backward(loss_sum * (self.world.data_size / weight))
            total += loss_sum.detach()
        return total.item(), self.engine.step(self.learning_rate())

    def learning_rate(self) -> float:
        return learning_rate(self.config.schedule, self.config.optim.lr, self.step, self.config.train.steps)

    def is_due(self, every_steps: int | None) -> bool:
        """Whether something done every so many updates, and after the last, is to be done now."""
        return self.step == self.config.train.steps or (every_steps is not None and self.step % every_steps == 0)

    def validate(self) -> float | None:
        if self.validation is None:
            return None
        self.helm.show(self.step, "evaluate")
        metrics = self.validation.run(self.engine, self.task, self.device)
        if self.world.rank == 0:
            self.job.sink.tell(
                EvaluationNews(
                    step=self.step, generation=self.job.generation, t=self.now(), split=SPLIT, metrics=dict(metrics)
                )
            )
        return float(metrics["loss"])

    def check_finite(self, batch: RankBatch, result: StepResult, own_loss: float, loss: float) -> None:
        """A few updates in a row that had to be left out are the end, named with what was fed."""
        scale_search = self.config.train.precision == "fp16" and math.isfinite(loss)
        self.unapplied = 0 if result.applied or scale_search else self.unapplied + 1
        if self.unapplied < UNAPPLIED_LIMIT:
            return
        fed = "" if math.isfinite(own_loss) else f"; rank {self.world.rank} fed {self.name_samples(batch)}"
        raise TrainingFailed(
            f"{UNAPPLIED_LIMIT} updates in a row are not finite, the last with loss {loss} and gradient norm "
            f"{result.grad_norm}{fed}",
            where=f"step {self.step}",
            remedy="lower optim.lr, set train.clip_norm, or lengthen schedule.warmup_steps",
        )

    def name_samples(self, batch: RankBatch, most: int = 8) -> str:
        """The samples of a batch as people know them: shard/key."""
        ids = sorted({(span.ordinal, span.place) for spans in batch.spans for span in spans})
        manifest = self.job.manifest
        names = [f"{manifest.shard_name(o)}/{manifest.keys(o, np.array([place]))[0]}" for o, place in ids[:most]]
        return ", ".join(names) + (f" and {len(ids) - most} more" if len(ids) > most else "")

    # ---- news ----

    def tell_step(
        self, batch: RankBatch, weight: float, result: StepResult, agreed: StepFigures, step_s: float
    ) -> None:
        step, generation = self.step, self.job.generation
        if self.config.data.ledger == "keys":
            keys = KeysNews(step=step, generation=generation, slots=list(batch.slots), spans=batch.spans)
            self.job.sink.tell(keys)
        if self.world.rank != 0:
            return
        metrics: dict[str, Number] = {
            "loss": agreed.loss_sum / weight if weight else 0.0,
            "lr": self.learning_rate(),
            "grad_norm": result.grad_norm,
            "world_size": self.world.size,
            "tokens": round(weight),
            "samples": agreed.count,
            "step_s": step_s,
            "data_wait_s": agreed.wait_s / self.world.size,
            "applied": result.applied,
            "epoch": (step + 1) / self.epoch_steps,
        }
        ledger: dict[str, str | int] = {
            "order_digest": agreed.sums.order_hex,
            "set_digest": agreed.sums.set_hex,
            "count": agreed.count,
        }
        self.job.sink.tell(StepNews(step=step, generation=generation, t=self.now(), metrics=metrics, ledger=ledger))

    def now(self) -> float:
        return round(self.job.clock.now(), 3)


# ---- the start ----


def open_start(job: TrainJob) -> tuple[int, FragmentSource]:
    """The updates already done, and where the state comes from."""
    if job.start is None:
        return 0, initial_source(job.config, job.manifest.tokenizer.vocab_size)
    reader = open_checkpoint(job.start)
    job.manifest.check_prefix(list(reader.facts.chain))
    if reader.facts.config_hash != run_hash(job.config):
        raise ConfigError(
            f"{job.start} belongs to a run with other identity keys",
            where="checkpoint",
            remedy="resume it with the config it was made with, or start a new run",
        )
    return reader.step, reader


def use_deterministic_kernels() -> None:
    """train.deterministic. On the CPU all kernels are so anyway."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS when it first needs a workspace
    torch.use_deterministic_algorithms(True)


def largest_source(order: Order) -> int:
    """The source with the largest share, which epochs are counted by."""
    quotas = order.phases.rows[0].quotas
    return max(order.rows, key=lambda source: quotas[source])


def weight_of(batch: RankBatch | None) -> float:
    return batch.weight if batch is not None else 0.0
