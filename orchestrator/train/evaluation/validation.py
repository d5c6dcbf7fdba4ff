"""An evaluation: mean loss and metrics over a split, every token or sample once, exact for any world.

Called by loop.py during training and by offline.py for `longhaul evaluate`."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from orchestrator.config.metrics import MOST_CLASSES, OF_CLASSES, OF_NUMBERS, chosen_metrics, fitting_metrics
from orchestrator.config.run import RunConfig
from orchestrator.config.training import METRICS
from orchestrator.core.errors import TrainingFailed
from orchestrator.core.news import Value
from orchestrator.core.words import World
from orchestrator.data.feeding.batch import RankBatch
from orchestrator.data.feeding.feed import open_batches
from orchestrator.data.feeding.growing import validated_on
from orchestrator.data.feeding.stream import Stream
from orchestrator.data.ordering.order import ValidationOrder
from orchestrator.data.ordering.skips import Skips
from orchestrator.data.shards.manifest import Manifest
from orchestrator.train.agreement import sum_over_ranks
from orchestrator.train.augment.replay import Augmentation
from orchestrator.train.engine import Engine
from orchestrator.train.evaluation.classes import ClassMetrics
from orchestrator.train.evaluation.numbers import NumberMetrics
from orchestrator.train.evaluation.ranks import Ranks
from orchestrator.train.evaluation.scores import Scores, notes_of, values_of
from orchestrator.train.slices import cut_micro_batches, micro_batches_needed
from orchestrator.train.tasks.task import Measured, Task

SPLIT = "validation"


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What came of it, the same on every rank: loss and chosen metrics by name, what people should know of them, and
    where there are outputs everything that they say."""

    values: dict[str, Value]
    notes: tuple[str, ...] = ()
    scores: Scores | None = None

    @property
    def numbers(self) -> dict[str, float]:
        """Values that are one number."""
        return {name: value for name, value in self.values.items() if isinstance(value, int | float)}


class Validation:
    """What stays the same between evaluations: which batches of which split. `everything`: all metrics that fit, not
    those of evaluate.metrics."""

    def __init__(
        self,
        config: RunConfig,
        manifest: Manifest,
        world: World,
        micro_batch: int,
        *,
        split: str = SPLIT,
        everything: bool = False,
    ) -> None:
        self._config, self._world, self._split, self._everything = config, world, split, everything
        self._manifest = validated_on(config, manifest) if split == SPLIT else manifest
        self._augmentation = Augmentation(config)
        self._order = ValidationOrder.of(config, self._manifest, split)
        self._num_batches = min(self._order.num_batches, config.evaluate.max_batches or self._order.num_batches)
        self._micro_batches = micro_batches_needed(config.train.global_batch, world.data_size, micro_batch)

    def run(self, engine: Engine, task: Task, device: torch.device) -> Evaluation:
        """Loss in nats a token or sample, and what follows from it. The same on every rank.

        The model is left as it was. What does not decode has no weight; how many did not is told."""
        zero = partial(torch.zeros, (), dtype=torch.float64, device=device)
        sums = defaultdict(zero, loss=zero())
        weight, holes = 0.0, 0.0
        outputs = Outputs(self._config, everything=self._everything)
        engine.module.eval()
        with self._open() as batches, torch.no_grad():
            for batch in batches:
                weight, holes = weight + batch.weight, holes + len(batch.holes)
                if is_void(batch):
                    continue
                for micro in cut_micro_batches(batch, self._micro_batches):
                    inputs = self._augmentation.settle(task.collate(micro.fields, device))
                    measured = task.step(engine.forward, inputs)
                    for name, value in {"loss": measured.loss, **measured.sums}.items():
                        sums[name] += value
                    outputs.take(measured)
        engine.module.train()
        weight, holes, *totals = sum_over_ranks([weight, holes, *(total.item() for total in sums.values())])
        means = {name: total / weight if weight else math.nan for name, total in zip(sums, totals, strict=True)}
        values: dict[str, Value] = {**means, **self._describe(means["loss"], weight)}
        values |= {"holes": round(holes)} if holes else {}
        if not weight or (scores := outputs.compute()) is None:
            return Evaluation(values=values)
        values |= self._agree(values_of(scores, outputs.chosen, self._config.evaluate.average))
        notes = notes_of(scores, outputs.chosen, self._split, class_names(self._config))
        return Evaluation(values=values, notes=tuple(notes), scores=scores)

    def _describe(self, loss: float, weight: float) -> dict[str, Value]:
        if self._config.packed_len is None:
            return {"samples": round(weight)}
        chosen = chosen_metrics(self._config.evaluate, fitting_metrics(self._config.task.name))
        told: dict[str, Value] = {"tokens": round(weight)}
        return told | {"perplexity": exp(loss)} if self._everything or "perplexity" in chosen else told

    def _agree(self, values: dict[str, Value]) -> dict[str, Value]:
        """The numbers of rank 0 for all: another kind of CPU may round otherwise, and runs end early by them."""
        own = {name: value for name, value in values.items() if isinstance(value, int | float)}
        agreed = sum_over_ranks([value if self._world.rank == 0 else 0.0 for value in own.values()])
        return {**values, **dict(zip(own, agreed, strict=True))}

    def _open(self) -> Stream:
        return Stream(
            open_batches(self._config, self._manifest, self._order, self._split, torch.get_num_threads()),
            self._world,
            first_step=0,
            stop_step=self._num_batches,
            skips=Skips(),
            prefetch_bytes=self._config.data.prefetch_bytes,
        )


class Outputs:
    """Metrics of what a task gives out, made when its first outputs are there; all ranks come to that alike."""

    def __init__(self, config: RunConfig, *, everything: bool, ranks: Ranks | None = None) -> None:
        self.chosen: tuple[str, ...] = ()
        self._config, self._everything, self._ranks = config, everything, ranks or Ranks()
        self._metrics: ClassMetrics | NumberMetrics | None = None

    def take(self, measured: Measured) -> None:
        outputs, targets, weights = measured.outputs, measured.targets, measured.weights
        if outputs is None or targets is None or weights is None:
            self._check_nothing_is_wished()
            return
        if self._metrics is None:
            check_shapes(outputs, targets, weights)
            self._metrics = self._make(outputs, targets)
        self._metrics.update(outputs.detach().cpu(), targets.detach().cpu(), weights.detach().cpu() > 0)

    def compute(self) -> Scores | None:
        return None if self._metrics is None else self._metrics.compute()

    def _make(self, outputs: Tensor, targets: Tensor) -> ClassMetrics | NumberMetrics:
        fitting = fitting_metrics(self._config.task.name)
        if fitting == METRICS:  # a user's task: what it predicts shows now
            fitting = OF_NUMBERS if targets.is_floating_point() else OF_CLASSES
        self.chosen = fitting if self._everything else chosen_metrics(self._config.evaluate, fitting)
        if fitting == OF_NUMBERS:
            return NumberMetrics(self._ranks)
        num_classes = outputs.shape[1] if outputs.ndim == 2 and outputs.shape[1] > 1 else 2
        if num_classes > MOST_CLASSES and not self._everything and self._config.evaluate.metrics == "auto":
            self.chosen = tuple(name for name in self.chosen if name != "roc_auc")  # it keeps every output
        return ClassMetrics(num_classes, self.chosen, self._ranks)

    def _check_nothing_is_wished(self) -> None:
        wished = self._config.evaluate.metrics
        if wished == "auto" or self._everything or not set(wished) - {"perplexity"}:
            return
        raise TrainingFailed(
            f"{', '.join(wished)} need outputs and targets, and {self._config.task.name} gives out none",
            where="evaluate.metrics",
            remedy="have the task's step return Measured with outputs, targets and weights, or take metrics auto",
        )


def check_shapes(outputs: Tensor, targets: Tensor, weights: Tensor) -> None:
    """Those of our own tasks are right; one of a user's may not be."""
    count = len(targets)
    fits = (count, *outputs.shape[1:]) == outputs.shape and outputs.ndim <= 2 and weights.shape == targets.shape
    if not fits or targets.ndim != 1 or (targets.is_floating_point() and outputs.numel() != count):
        shapes = f"outputs {list(outputs.shape)}, targets {list(targets.shape)}, weights {list(weights.shape)}"
        raise TrainingFailed(
            f"a step gives out {shapes}, which no metric is made for",
            where="task",
            remedy="give out logits [n, classes] or values [n], targets [n] and weights [n]",
        )


def class_names(config: RunConfig) -> Sequence[str]:
    """Where the config has words for them."""
    table = config.data.table
    return (table.labels or ()) if table is not None else ()


def is_void(batch: RankBatch) -> bool:
    """Whether nothing of the whole global batch decodes, which all ranks know: it has no fields to be measured by."""
    return not batch.fields.keys() - {"weights", "draw_keys"}


def exp(loss: float) -> float:
    """e to the loss; infinite where that is too large for a float."""
    return math.exp(loss) if loss < math.log(1e300) else math.inf
