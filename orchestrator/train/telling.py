"""What a rank tells of training: its beginning, steps, validations. Called by loop.py; the scribe writes it down.

Rank 0 tells what all ranks agree on, each rank what it alone was fed."""

from collections.abc import Mapping
from typing import NamedTuple

from orchestrator.core.news import BegunNews, EvaluationNews, KeysNews, NoteNews, Number, StepNews
from orchestrator.data.feeding.batch import RankBatch
from orchestrator.data.ordering.order import Order
from orchestrator.train.engine import StepResult
from orchestrator.train.evaluation.validation import SPLIT, Evaluation
from orchestrator.train.figures import StepFigures
from orchestrator.train.job import TrainJob


class StepDone(NamedTuple):
    """One update, and what came of it; `step` is the one that it began at."""

    step: int
    batch: RankBatch
    weight: float  # of the whole global batch; 0: a void step
    learning_rate: float
    result: StepResult
    agreed: StepFigures  # over all ranks
    step_s: float
    speed: Mapping[str, Number]
    pause_s: float  # before it, for snapshots and checkpoints
    skipped: int  # snapshots until now that were due when no slot was free


class Teller:
    def __init__(self, job: TrainJob) -> None:
        self._job, self._world = job, job.world
        self._noted: set[str] = set()  # of validations, told once

    def tell_begun(self, step: int, seconds: dict[str, float]) -> None:
        if self._world.rank == 0:
            rounded = {part: round(value, 6) for part, value in seconds.items()}
            news = BegunNews(step=step, generation=self._job.generation, t=self._now(), seconds=rounded)
            self._job.sink.tell(news)

    def tell_step(self, done: StepDone, order: Order) -> None:
        step, generation = done.step, self._job.generation
        if self._job.config.data.ledger == "keys":
            slots = list(done.batch.slots)
            self._job.sink.tell(KeysNews(step=step, generation=generation, slots=slots, spans=done.batch.spans))
        if self._world.rank != 0:
            return
        sums = done.agreed.sums
        ledger: dict[str, str | int] = {
            "order_digest": sums.order_hex,
            "set_digest": sums.set_hex,
            "count": done.agreed.count,
        }
        metrics = self._measure(done, order)
        self._job.sink.tell(StepNews(step=step, generation=generation, t=self._now(), metrics=metrics, ledger=ledger))

    def tell_validation(self, step: int, found: Evaluation) -> None:
        if self._world.rank != 0:
            return
        generation, t = self._job.generation, self._now()
        self._job.sink.tell(EvaluationNews(step=step, generation=generation, t=t, split=SPLIT, metrics=found.values))
        for text in sorted(set(found.notes) - self._noted):
            self._job.sink.tell(NoteNews(step=step, generation=generation, t=t, text=text))
        self._noted.update(found.notes)

    def _measure(self, done: StepDone, order: Order) -> dict[str, Number]:
        """The columns of metrics.jsonl."""
        agreed, weight = done.agreed, done.weight
        metrics: dict[str, Number] = {
            "loss": agreed.loss_sum / weight if weight else 0.0,
            "lr": done.learning_rate,
            "grad_norm": done.result.grad_norm,
            "world_size": self._world.size,
            "samples": agreed.count,
            "step_s": done.step_s,
            **({"pause_s": done.pause_s} if done.pause_s else {}),
            **({"snapshots_skipped": done.skipped} if done.skipped else {}),
            "data_wait_s": agreed.wait_s / self._world.size,
            **agreed.describe_reading(self._world.size),
            "applied": done.result.applied,
        }
        if order.is_whole:
            metrics["epoch"] = (done.step + 1) / order.epoch_steps(order.main_source)
        if self._job.config.packed_len is not None:
            metrics["tokens"] = round(weight)
        return metrics | dict(done.speed)

    def _now(self) -> float:
        return round(self._job.clock.now(), 3)
