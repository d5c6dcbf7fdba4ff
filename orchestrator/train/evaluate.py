"""Validation: the mean loss over a split, every token once, exact for any world. Called by loop.py between steps."""

import math
from collections.abc import Mapping

import torch

from orchestrator.config.run import RunConfig
from orchestrator.core.news import Number
from orchestrator.core.words import World
from orchestrator.data.manifest import Manifest
from orchestrator.data.order import ValidationOrder
from orchestrator.data.read import TokenReader
from orchestrator.data.skips import Skips
from orchestrator.data.stream import Stream
from orchestrator.train.engine import Engine, sum_over_ranks
from orchestrator.train.slices import cut_micro_batches, micro_batches_needed
from orchestrator.train.tasks import Task

SPLIT = "validation"


class Validation:
    """What stays the same between validations: the batches of the split."""

    def __init__(self, config: RunConfig, manifest: Manifest, world: World, micro_batch: int) -> None:
        self._order = ValidationOrder.of(config, manifest, SPLIT)
        self._reader = TokenReader(manifest, SPLIT)
        self._world = world
        self._prefetch_bytes = config.data.prefetch_bytes
        self._wants_perplexity = "perplexity" in config.evaluate.metrics
        self._num_batches = min(self._order.num_batches, config.evaluate.max_batches or self._order.num_batches)
        self._micro_batches = micro_batches_needed(config.train.global_batch, world.data_size, micro_batch)

    def run(self, engine: Engine, task: Task, device: torch.device) -> Mapping[str, Number]:
        """Loss in nats a token, and what follows from it. The same on every rank; the model is left as it was."""
        total = torch.zeros((), dtype=torch.float64, device=device)
        weight = 0.0
        engine.module.eval()
        with self._batches() as batches, torch.no_grad():
            for batch in batches:
                weight += batch.weight
                for micro in cut_micro_batches(batch, self._micro_batches):
                    total += task.loss(engine.forward, task.collate(micro.fields, device))
        engine.module.train()
        loss_sum, tokens = sum_over_ranks([total.item(), weight])
        loss = loss_sum / tokens
        return {"loss": loss, "tokens": round(tokens)} | ({"perplexity": exp(loss)} if self._wants_perplexity else {})

    def _batches(self) -> Stream:
        return Stream(
            self._order,
            self._reader,
            self._world,
            first_step=0,
            stop_step=self._num_batches,
            skips=Skips(),
            prefetch_bytes=self._prefetch_bytes,
        )


def exp(loss: float) -> float:
    """e to the loss; infinite where that is too large for a float."""
    return math.exp(loss) if loss < math.log(1e300) else math.inf
