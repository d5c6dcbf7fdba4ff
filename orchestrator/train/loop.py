"""The training loop of one rank: from a start to the last step, or to the word to stop or to leave this world.

Comes after control/rank.py has joined the world; feeds train/engine.py from data/feeding/stream.py, and tells news.
Every number follows from config, manifest, step and the fragments; nothing else is remembered from step to step."""

from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import torch

from orchestrator.checkpoint.reader import StateReader
from orchestrator.core.errors import NotPrepared, StoreDown
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
from orchestrator.train.engine import Engine, build_empty
from orchestrator.train.evaluation.validation import Validation, is_void
from orchestrator.train.figures import StepFigures
from orchestrator.train.job import Outcome, TrainJob, check_slices
from orchestrator.train.models.build import build_model
from orchestrator.train.optim.history import History
from orchestrator.train.optim.schedule import learning_rate
from orchestrator.train.out_of_memory import memory_explained
from orchestrator.train.profile import StepProfiler
from orchestrator.train.sabotage import Sabotage
from orchestrator.train.saver import Saver
from orchestrator.train.skipping import Skipping
from orchestrator.train.slices import cut_micro_batches
from orchestrator.train.speed import Speedometer
from orchestrator.train.start import known_validations, open_start, use_deterministic_kernels, vocab_size
from orchestrator.train.stopwatch import Laps, Stopwatch
from orchestrator.train.tasks.table import make_task
from orchestrator.train.telling import StepDone, Teller
from orchestrator.train.trouble import NO_UPDATE, LossWatch, Update, find_not_finite, judge_loss, tell_trouble

__all__ = ["Outcome", "TrainJob", "train"]  # what a rank needs

FORWARD = text_key("random numbers of the forward pass")


def train(job: TrainJob) -> Outcome:
    """Train until done, stopped, or bound for another world. All ranks call it with equal jobs, their places apart."""
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
        laps = Laps(job.clock, {"join": job.join_s})
        # what is trained on what
        self.job, self.config, self.world, self.helm = job, config, job.world, job.helm
        self.device = torch.device(job.device)
        self.task = make_task(config, manifest)
        self.augmentation = Augmentation(config)
        self.sabotage = Sabotage(job.drill, job.world.rank)
        self.teller = Teller(job)
        self.order = GrowingOrder(config, manifest, lambda: self.hear() is Word.GO_ON)
        self.validation = (
            Validation(config, manifest, job.world, job.micro_batch) if config.evaluate.every_steps else None
        )
        laps.end("build")

        with ExitStack() as reading, ExitStack() as made:
            # where it stands
            with job.interruptible():
                self.step, source = open_start(job)
            if isinstance(source, StateReader):
                reading.callback(source.close)
            self.history = History(config, known_validations(source))
            self.watch = LossWatch(
                config.elastic.spike, source.facts.recent_losses if isinstance(source, StateReader) else ()
            )
            self.step_s = 0.0  # what the last one took
            self.heard = Word.GO_ON  # by this rank
            self.reason = ""  # to stop or leave, although nobody has asked
            self.stores_down = 0  # ranks with such a reason
            self.back_to: int | None = None  # a step whose batch has been voided after it was trained on
            laps.end("restore")

            # what it works with
            self.engine = make_empty_engine(job)
            made.callback(self.engine.drop)
            self.forward_time = Stopwatch(self.device)
            laps.end("build")
            with job.interruptible():
                self.engine.insert(source)
            laps.end("restore")
            self.saver = Saver(job, self.engine, self.history, self.step)
            made.callback(self.saver.close)
            skips = Skips.load(job.skips_file)  # as they are now
            self.skipping = Skipping(job, skips, self.saver.settle)
            self.stream = open_stream(job, self.order, self.step, skips)
            made.callback(self.stream.close)
            self.profiler = StepProfiler(job.excerpt, job.world.rank, self.device)
            made.callback(self.profiler.close)
            self.batch = self.next_batch()
            self.speed = Speedometer(config, job.world, self.device)
            if self.batch is not None and not is_void(self.batch):
                self.speed.learn_flops(config, vocab_size(config, manifest), self.task, self.batch.fields)
            self.batch_weight, self.first_word = self.agree_to_begin()
            laps.end("read")
            self.made = made.pop_all()  # until here whatever raises closes all of it
        self.took = laps.seconds

    def close(self) -> None:
        self.made.close()

    # ---- the loop ----

    def train(self) -> Outcome:
        word = self.first_word
        if word is Word.GO_ON:
            self.validate()  # what was due when a store stayed away
        if word is Word.GO_ON and self.batch is not None and not self.ends_early:
            self.teller.tell_begun(self.step, self.took)
        while word is Word.GO_ON and self.step < self.job.stop_step and not self.ends_early:
            with self.profiler.watching(self.step):
                word = self.train_step()
            if self.back_to is None:
                self.validate()
                self.keep(word)
        return self.end(word)

    def end(self, word: Word) -> Outcome:
        """After the last step, early, stopped, or bound for another world."""
        is_complete = self.step == self.job.stop_step
        if self.ends_early and not is_complete:
            self.reason = self.history.tell_end()
        is_done = is_complete or self.ends_early
        left_or_stopped = RunState.RUNNING if word is Word.LEAVE else RunState.STOPPED
        self.helm.show(self.step, "checkpoint")
        return Outcome(
            state=RunState.DONE if is_done else left_or_stopped,
            step=self.step,
            checkpoint=self.saver.finish(must_be_saved=is_done),
            reason=self.reason,
            back_to=self.back_to,
        )

    def train_step(self) -> Word:
        """One update, and what all ranks agree on after it: to go on, to stop, or to leave this world."""
        began = self.job.clock.monotonic()
        assert self.batch is not None
        self.helm.show(self.step, "step")
        self.skipping.tell_holes(self.step, self.batch)
        batch, weight, update = self.update_or_void(self.batch, self.batch_weight)

        self.batch = self.next_batch()
        agreed = StepFigures(
            loss_sum=sum(update.micro_losses),
            next_weight=weight_of(self.batch),
            count=batch.count,
            holes=len(batch.holes),
            stop_votes=int(self.hear() is Word.STOP),
            leave_votes=int(self.hear() is Word.LEAVE),
            empty_handed=int(self.batch is None),
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
        if update.result.applied:
            self.judge(batch, agreed.loss_sum / weight, update)
        if self.back_to is not None:
            return Word.LEAVE

        self.step_s = self.job.clock.monotonic() - began
        speed = self.speed.take(self.step, agreed.count if self.config.packed_len is None else weight, self.step_s)
        rate, pause_s, skipped = self.learning_rate(), self.saver.take_pause(), self.saver.skipped
        done = StepDone(self.step, batch, weight, rate, update.result, agreed, self.step_s, speed, pause_s, skipped)
        self.teller.tell_step(done, self.order.known)
        self.skipping.check_holes(self.step, batch, agreed.holes)
        self.step += 1
        return agreed.choose_word(must_leave=self.step == self.job.leave_at, is_writing=self.saver.is_writing)

    def update_or_void(self, batch: RankBatch, weight: float) -> tuple[RankBatch, float, Update]:
        """What is not finite is applied on no rank, so it can be computed once more, to the bit. If it is so again, the
        batch is left out of the run; if not, the fault was a machine's."""
        update = self.update(batch, weight)
        seeks_scale = self.config.train.precision == "fp16"
        trouble = find_not_finite(update, weight, seeks_scale=seeks_scale)
        if trouble is None:
            return batch, weight, update
        self.engine.put_back_scale()
        again = self.update(batch, weight)
        if find_not_finite(again, weight, seeks_scale=seeks_scale) is None:
            once = replace(trouble, kind="not_repeated")
            tell_trouble(once, self.job, self.step, batch, update.micro_losses)
            return batch, weight, again
        self.engine.put_back_scale()
        self.skipping.void(self.step, tell_trouble(trouble, self.job, self.step, batch, update.micro_losses))
        return batch.voided(), 0.0, NO_UPDATE

    def update(self, batch: RankBatch, weight: float) -> Update:
        if not weight:  # every sample of the step is skipped: a void step
            return NO_UPDATE
        with self.job.interruptible():  # of a broken world all of it is given up
            return self.compute(batch, weight)

    def compute(self, batch: RankBatch, weight: float) -> Update:
        """Forward, backward, optimizer."""
        losses, sabotage = [], self.sabotage.begin_attempt(self.step)
        for number, micro in enumerate(cut_micro_batches(batch, self.job.accumulation)):
            torch.manual_seed(int(key(self.config.seed, FORWARD, self.step, micro.slot)))
            if number == 0:  # the first backward waits for other ranks; this forward, below ZeRO-3, does not
                self.forward_time.start()
            inputs = self.augmentation.change(self.task.collate(micro.fields, self.device), micro.fields)
            loss_sum = sum_losses(self.task, self.engine.forward, inputs)
            if number == 0:
                self.forward_time.stop()
            if sabotage != 1.0:
                loss_sum = loss_sum * sabotage
            # the engine averages over ranks; with this factor the outcome is the mean over the global batch
            self.engine.backward(loss_sum * (self.world.data_size / weight))
            losses.append(loss_sum.detach())
        self.saver.hold_update()
        result = self.engine.step(self.learning_rate())
        return Update(torch.stack(losses).tolist(), result)

    def judge(self, batch: RankBatch, loss: float, update: Update) -> None:
        """A loss that leaps is told with what was fed. If elastic.spike says so, the run goes on from before the step,
        without its batch."""
        trouble = judge_loss(loss, update.result.grad_norm, self.watch.limit)
        self.watch.remember(loss)
        if trouble is None:
            return
        news = tell_trouble(trouble, self.job, self.step, batch, update.micro_losses)
        spike = self.config.elastic.spike
        if trouble.kind == "loss_spike" and spike is not None and spike.action == "void" and self.job.excerpt is None:
            self.skipping.void(self.step, news)
            self.back_to, self.reason = self.step, news.reason

    # ---- what all ranks do alike ----

    def hear(self) -> Word:
        """What the controller has said to this rank; once it is to stop or leave, only another such word counts."""
        word = self.helm.word()
        self.heard = self.heard if word is Word.GO_ON else word
        return self.heard

    def next_batch(self) -> RankBatch | None:
        """None when there is no more, or none to be had: then this rank has a reason to stop, or was asked to stop or
        leave while it waited."""
        self.helm.show(self.step, "data")
        try:
            with self.job.interruptible():
                return next(self.stream, None)
        except StoreDown as error:
            self.reason = str(error)
        except NotPrepared:
            assert self.heard is not Word.GO_ON
        return None

    def agree_to_begin(self) -> tuple[float, Word]:
        """The weight of the first batch; and whether to begin, though some ranks have none."""
        is_empty = self.batch is None
        leaves = is_empty and not self.reason and self.heard is Word.LEAVE
        weight, empty_handed, leave_votes = sum_over_ranks([weight_of(self.batch), is_empty, leaves])
        if not empty_handed:
            return weight, Word.GO_ON
        return weight, Word.LEAVE if leave_votes == empty_handed else Word.STOP

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

    def keep(self, word: Word) -> None:
        """A checkpoint or a snapshot, if one is due; and what another world is to go on from."""
        if self.job.excerpt is not None:
            return
        if word is Word.STOP or self.is_checkpoint_due():
            self.helm.show(self.step, "checkpoint")
            self.saver.save(self.step, self.watch.losses)
        elif word is Word.LEAVE:
            self.helm.show(self.step, "checkpoint")
            self.saver.hand_over(self.step, self.watch.losses)
        else:
            self.saver.snap(self.step, self.watch.losses)

    def validate(self) -> None:
        """If it is due, and has not been done: a run goes on from a checkpoint that knows."""
        is_known = self.step == 0 or self.history.at(self.step) is not None
        if self.validation is None or self.stores_down or is_known or not self.is_due(self.config.evaluate.every_steps):
            return
        self.helm.show(self.step, "evaluate")
        with self.job.interruptible():
            found = self.validation.run(self.engine, self.task, self.device)
        self.history.add(self.step, found.numbers)
        self.teller.tell_validation(self.step, found)


def make_empty_engine(job: TrainJob) -> Engine:
    """Before its first kernel the choice of kernels is made."""
    config = job.config
    if config.train.deterministic:
        use_deterministic_kernels()
    build = partial(build_model, config, vocab_size(config, job.manifest))
    return Engine(
        build_empty(build, config, job.device),
        config=config,
        world=job.world,
        device=job.device,
        micro_batch=job.micro_batch,
        accumulation=job.accumulation,
    )


def open_stream(job: TrainJob, order: GrowingOrder, first_step: int, skips: Skips) -> Stream:
    """The batches of this rank, as many ahead as memory may hold."""
    return Stream(
        open_batches(job.config, job.manifest, order, "train", torch.get_num_threads()),
        job.world,
        first_step=first_step,
        stop_step=job.stop_step,
        skips=skips,
        prefetch_bytes=job.config.data.prefetch_bytes,
    )


def weight_of(batch: RankBatch | None) -> float:
    return batch.weight if batch is not None else 0.0
