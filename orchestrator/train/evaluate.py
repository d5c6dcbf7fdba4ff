"""Validation: mean loss and more over a split, every token or sample once, exact for any world. Called by loop.py."""

import math
from collections import defaultdict
from collections.abc import Mapping
from functools import partial

import torch

from orchestrator.config.run import RunConfig
from orchestrator.core.news import Number
from orchestrator.core.words import World
from orchestrator.data.feeding.batch import RankBatch
from orchestrator.data.feeding.feed import open_batches
from orchestrator.data.feeding.growing import validated_on
from orchestrator.data.feeding.stream import Stream
from orchestrator.data.ordering.order import ValidationOrder
from orchestrator.data.ordering.skips import Skips
from orchestrator.data.shards.manifest import Manifest
from orchestrator.train.augment.replay import Augmentation
from orchestrator.train.engine import Engine, sum_over_ranks
from orchestrator.train.slices import cut_micro_batches, micro_batches_needed
from orchestrator.train.tasks.task import Task

SPLIT = "validation"


class Validation:
    """What stays the same between validations: which batches of the split."""

    def __init__(self, config: RunConfig, manifest: Manifest, world: World, micro_batch: int) -> None:
        self._config, self._manifest, self._world = config, validated_on(config, manifest), world
        self._augmentation = Augmentation(config)
        self._order = ValidationOrder.of(config, self._manifest, SPLIT)
        self._num_batches = min(self._order.num_batches, config.evaluate.max_batches or self._order.num_batches)
        self._micro_batches = micro_batches_needed(config.train.global_batch, world.data_size, micro_batch)

    def run(self, engine: Engine, task: Task, device: torch.device) -> Mapping[str, Number]:
        """Loss in nats a token or sample, and what follows from it. The same on every rank.

        The model is left as it was. What does not decode has no weight; how many did not is told."""
        zero = partial(torch.zeros, (), dtype=torch.float64, device=device)
        sums = defaultdict(zero, loss=zero())
        weight, holes = 0.0, 0.0
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
        engine.module.train()
        weight, holes, *totals = sum_over_ranks([weight, holes, *(total.item() for total in sums.values())])
        means = {name: total / weight if weight else math.nan for name, total in zip(sums, totals, strict=True)}
        return means | self._describe(means["loss"], weight) | ({"holes": round(holes)} if holes else {})

    def _describe(self, loss: float, weight: float) -> dict[str, Number]:
        if self._config.packed_len is None:
            return {"samples": round(weight)}
        metrics = self._config.evaluate.metrics
        perplexity = {"perplexity": exp(loss)} if metrics == "auto" or "perplexity" in metrics else {}
        return {"tokens": round(weight)} | perplexity

    def _open(self) -> Stream:
        return Stream(
            open_batches(self._config, self._manifest, self._order, SPLIT, torch.get_num_threads()),
            self._world,
            first_step=0,
            stop_step=self._num_batches,
            skips=Skips(),
            prefetch_bytes=self._config.data.prefetch_bytes,
        )


def is_void(batch: RankBatch) -> bool:
    """Whether nothing of the whole global batch decodes, which all ranks know: it has no fields to be measured by."""
    return not batch.fields.keys() - {"weights", "draw_keys"}


def exp(loss: float) -> float:
    """e to the loss; infinite where that is too large for a float."""
    return math.exp(loss) if loss < math.log(1e300) else math.inf
