"""The training loop of one rank: from a start to the last step, or to the word to stop.

Comes after control/rank.py has joined the world; feeds train/engine.py from data/feeding/stream.py, and tells news.
Every number follows from config, manifest, step and the fragments; nothing else is remembered from step to step."""

import math
from functools import partial

import torch

from orchestrator.checkpoint.reader import StateReader
from orchestrator.core.errors import NotPrepared, StoreDown, TrainingFailed
from orchestrator.core.keyed import key, text_key
from orchestrator.core.words import RunState, Word
from orchestrator.data.feeding.batch import RankBatch
from orchestrator.data.feeding.feed import open_batches
from orchestrator.data.feeding.growing import GrowingOrder
from orchestrator.data.feeding.stream import Stream
from orchestrator.data.ordering.skips import Skips
from orchestrator.train.agreement import sum_over_ranks
from orchestrator.train.augment.mixup import sum_losses
from orchestrator.train.augment.replay import Augmentation
from orchestrator.train.engine import Engine, StepResult, build_empty
from orchestrator.train.evaluation.validation import Validation
from orchestrator.train.figures import StepFigures
from orchestrator.train.job import Outcome, TrainJob, check_slices
from orchestrator.train.models.build import build_model
from orchestrator.train.names import name_holes
from orchestrator.train.optim.history import History
from orchestrator.train.optim.schedule import learning_rate
from orchestrator.train.out_of_memory import memory_explained
from orchestrator.train.profile import StepProfiler
from orchestrator.train.saver import Saver
from orchestrator.train.slices import cut_micro_batches
from orchestrator.train.speed import Speedometer
from orchestrator.train.start import known_validations, open_start, use_deterministic_kernels, vocab_size
from orchestrator.train.stopwatch import Stopwatch
from orchestrator.train.tasks.table import make_task
from orchestrator.train.telling import StepDone, Teller
from orchestrator.train.trouble import LossWatch, find_trouble, tell_trouble

__all__ = ["Outcome", "TrainJob", "train"]  # what a rank needs

FORWARD = text_key("random numbers of the forward pass")
UNAPPLIED_LIMIT = 3  # updates in a row that are not finite


def train(job: TrainJob) -> Outcome:
    """Train until done or stopped. All ranks of the world call it with equal jobs, their places apart."""
    job.helm.show(0, "start")
    check_slices(job)
    with memory_explained(job):
        trainer = Trainer(job)
    try:
        with memory_explained(job, lambda: trainer.step):
            return trainer.train()
    finally:
        trainer.close()


class Trainer:
    def __init__(self, job: TrainJob) -> None:
        config, manifest = job.config, job.manifest
        # what is trained on what
        self.job, self.config, self.world, self.helm = job, config, job.world, job.helm
        self.device = torch.device(job.device)
        self.task = make_task(config, manifest)
        self.augmentation = Augmentation(config)
        self.teller = Teller(job)
        self.order = GrowingOrder(config, manifest, lambda: self.helm.word() is not Word.STOP)
        self.validation = (
            Validation(config, manifest, job.world, job.micro_batch) if config.evaluate.every_steps else None
        )

        # where it stands
        self.step, source = open_start(job)
        self.history = History(config, known_validations(source))
        self.unapplied = 0  # updates in a row
        self.step_s = 0.0  # what the last one took
        self.watch = LossWatch(
            config.elastic.spike, source.facts.recent_losses if isinstance(source, StateReader) else ()
        )
        self.skips = Skips.load(job.skips_file)  # as they were at the start
        self.num_holes = len(self.skips.holes)  # of the whole run so far, on all ranks
        self.reason = ""  # to stop, although nobody has asked: a store stays away
        self.stores_down = 0  # ranks with such a reason

        # what it works with
        if config.train.deterministic:
            use_deterministic_kernels()
        build = partial(build_model, config, vocab_size(config, manifest))
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
        self.saver = Saver(job, self.engine, self.history, self.step)
        if isinstance(source, StateReader):
            source.close()
        self.stream = Stream(
            open_batches(config, manifest, self.order, "train", torch.get_num_threads()),
            job.world,
            first_step=self.step,
            stop_step=job.stop_step,
            skips=self.skips,
            prefetch_bytes=config.data.prefetch_bytes,
        )
        self.batch = self.next_batch()
        self.profiler = StepProfiler(job.excerpt, job.world.rank, self.device)
        self.speed = Speedometer(config, job.world, self.device)
        if self.batch is not None:
            self.speed.learn_flops(config, vocab_size(config, manifest), self.task, self.batch.fields)
        self.batch_weight, self.empty_handed = sum_over_ranks([weight_of(self.batch), self.batch is None])

    def close(self) -> None:
        self.stream.close()
        self.saver.close()
        self.engine.drop()

    # ---- the loop ----

    def train(self) -> Outcome:
        steps, must_stop = self.job.stop_step, self.empty_handed > 0
        if not must_stop:
            self.validate()  # what was due when a store stayed away
        while self.step < steps and not must_stop and not self.ends_early:
            with self.profiler.watching(self.step):
                must_stop = self.train_step()
            self.validate()
            if self.job.excerpt is None:
                self.keep(must_stop=must_stop)
        return self.end()

    def end(self) -> Outcome:
        """After the last step, early, or stopped."""
        is_complete = self.step == self.job.stop_step
        if self.ends_early and not is_complete:
            self.reason = self.history.tell_end()
        is_done = is_complete or self.ends_early
        self.helm.show(self.step, "checkpoint")
        checkpoint = self.saver.finish(must_be_saved=is_done)
        state = RunState.DONE if is_done else RunState.STOPPED
        return Outcome(state=state, step=self.step, checkpoint=checkpoint, reason=self.reason)

    def train_step(self) -> bool:
        """One update, and what all ranks agree on after it: whether one of them has a reason to stop."""
        began = self.job.clock.monotonic()
        batch, weight = self.batch, self.batch_weight
        assert batch is not None
        self.helm.show(self.step, "step")
        self.teller.tell_holes(self.step, batch)
        micro_losses, result = self.update(batch, weight)

        self.batch = self.next_batch()
        agreed = StepFigures(
            loss_sum=sum(micro_losses),
            next_weight=weight_of(self.batch),
            count=batch.count,
            holes=len(batch.holes),
            stop_votes=int(self.helm.word() is Word.STOP),
            stores_down=int(bool(self.reason)),
            wait_s=self.stream.wait_s,
            before_s=self.step_s,
            snapshot_s=self.saver.cost_s,
            votes=self.saver.votes(),
            reading=batch.figures,
            sums=batch.sums,
        ).add_over_ranks()
        self.batch_weight, self.stores_down = agreed.next_weight, agreed.stores_down
        self.saver.hear(agreed.votes)
        self.saver.learn(agreed.before_s, agreed.snapshot_s)
        if weight:
            self.helm.show_busy(self.forward_time.seconds + self.stream.wait_s)

        self.step_s = self.job.clock.monotonic() - began
        speed = self.speed.take(self.step, agreed.count if self.config.packed_len is None else weight, self.step_s)
        rate, pause_s = self.learning_rate(), self.saver.take_pause()
        done = StepDone(self.step, batch, weight, rate, result, agreed, self.step_s, speed, pause_s, self.saver.skipped)
        self.teller.tell_step(done, self.order.known)
        if weight:
            self.check_numbers(batch, result, agreed.loss_sum / weight, micro_losses)
        self.check_holes(batch, agreed.holes)
        self.step += 1
        return agreed.stop_votes + agreed.stores_down > 0

    def next_batch(self) -> RankBatch | None:
        """None when there is no more, or none to be had: then this rank has a reason to stop, or was asked to while it
        waited."""
        self.helm.show(self.step, "data")
        try:
            return next(self.stream, None)
        except StoreDown as error:
            self.reason = str(error)
        except NotPrepared:
            assert self.helm.word() is Word.STOP
        return None

    def update(self, batch: RankBatch, weight: float) -> tuple[list[float], StepResult]:
        """Forward, backward, optimizer: this rank's sum of losses by micro-batch, and what became of the update on all
        ranks."""
        if not weight:  # every sample of the step is skipped: a void step
            return [], StepResult(applied=False, grad_norm=0.0)
        losses = []
        for number, micro in enumerate(cut_micro_batches(batch, self.job.accumulation)):
            torch.manual_seed(int(key(self.config.seed, FORWARD, self.step, micro.slot)))
            if number == 0:  # the first backward waits for other ranks; this forward, below ZeRO-3, does not
                self.forward_time.start()
            inputs = self.augmentation.change(self.task.collate(micro.fields, self.device), micro.fields)
            loss_sum = sum_losses(self.task, self.engine.forward, inputs)
            if number == 0:
                self.forward_time.stop()
            # the engine averages over ranks; with this factor the outcome is the mean over the global batch
            self.engine.backward(loss_sum * (self.world.data_size / weight))
            losses.append(loss_sum.detach())
        self.saver.hold_update()
        result = self.engine.step(self.learning_rate())
        return torch.stack(losses).tolist(), result

    def learning_rate(self) -> float:
        schedule, peak, steps = self.config.schedule, self.config.optim.lr, self.config.train.num_steps
        return learning_rate(schedule, peak, self.step, steps, self.history.falls)

    def is_due(self, every_steps: int | None) -> bool:
        """Whether something done every so many updates, and after the last, is to be done now."""
        return self.is_last_step or (every_steps is not None and self.step % every_steps == 0)

    @property
    def is_last_step(self) -> bool:
        return self.step == self.config.train.num_steps

    @property
    def ends_early(self) -> bool:
        """By evaluate.early_stop. An excerpt does its steps whatever the run did."""
        return self.history.stalled and self.job.excerpt is None

    def is_checkpoint_due(self) -> bool:
        """Also of what is among the best so far, if those are to be kept, and where the run ends early."""
        is_good = self.history.is_among_best(self.step, self.config.checkpoint.keep.best)
        return self.is_due(self.config.checkpoint.every_steps) or is_good or self.ends_early

    def keep(self, *, must_stop: bool) -> None:
        """A checkpoint or a snapshot, if one is due."""
        if must_stop or self.is_checkpoint_due():
            self.helm.show(self.step, "checkpoint")
            self.saver.save(self.step, self.watch.losses)
        else:
            self.saver.snap(self.step, self.watch.losses)

    def validate(self) -> None:
        """If it is due, and has not been done: a run goes on from a checkpoint that knows."""
        is_known = self.step == 0 or self.history.at(self.step) is not None
        if self.validation is None or self.stores_down or is_known or not self.is_due(self.config.evaluate.every_steps):
            return
        self.helm.show(self.step, "evaluate")
        found = self.validation.run(self.engine, self.task, self.device)
        self.history.add(self.step, found.numbers)
        self.teller.tell_validation(self.step, found)

    def check_numbers(self, batch: RankBatch, result: StepResult, loss: float, micro_losses: list[float]) -> None:
        """What went wrong is told with what was fed, by all ranks in the same step; a few updates in a row that had to
        be left out are the end."""
        if self.config.train.precision == "fp16" and not result.applied and math.isfinite(loss):
            self.unapplied = 0  # the search for a loss scale
            return
        trouble = find_trouble(loss, result.grad_norm, applied=result.applied, limit=self.watch.limit)
        self.watch.remember(loss)
        self.unapplied = 0 if result.applied else self.unapplied + 1
        if trouble is None:
            return
        news = tell_trouble(trouble, self.job, self.step, batch, micro_losses)
        if self.unapplied == UNAPPLIED_LIMIT:
            self.saver.settle()  # all ranks are here
            raise TrainingFailed(
                f"{UNAPPLIED_LIMIT} updates in a row are not finite; the last: {news.describe()}",
                where=f"step {self.step}",
                remedy="lower optim.lr, set train.clip_norm, or lengthen schedule.warmup_steps",
            )

    def check_holes(self, batch: RankBatch, holes: int) -> None:
        """More than data.max_holes in the whole run are the end, on all ranks in the same step."""
        self.num_holes += holes
        if self.num_holes <= self.config.data.max_holes:
            return
        named = name_holes(self.job.manifest, batch.holes[:3])
        found = "; ".join(f"{left_out.sample}: {left_out.reason}" for left_out in named)
        self.saver.settle()  # all ranks are here
        raise TrainingFailed(
            f"{self.num_holes} samples do not decode, more than data.max_holes={self.config.data.max_holes}"
            + (f", in this step {found}" if found else ""),
            where=f"step {self.step}",
            remedy=f"look at {self.job.skips_file}, which names them all; then go on with a higher data.max_holes, or "
            "start a new run on repaired data",
        )


def weight_of(batch: RankBatch | None) -> float:
    return batch.weight if batch is not None else 0.0
