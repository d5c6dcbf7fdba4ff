"""An evaluation of a checkpoint in a world of its own on this machine, without Ray. For `longhaul evaluate`.

The engine is built and filled as in training, so that a model spread by ZeRO-3 is spread here as well; only the
optimizer is one without states, which nobody would step."""

import os
from dataclasses import dataclass
from functools import partial

import torch
from torch.distributed import Store  # type: ignore[attr-defined]

from orchestrator.checkpoint.reader import StateReader
from orchestrator.checkpoint.shelf import Address
from orchestrator.config.run import RunConfig
from orchestrator.config.training import OptimSection
from orchestrator.core.words import World
from orchestrator.data.shards.manifest import Manifest
from orchestrator.train.engine import Engine, build_empty, join_world, leave_world
from orchestrator.train.evaluation.crew import TIMEOUT_S
from orchestrator.train.evaluation.validation import Evaluation, Validation
from orchestrator.train.models.build import build_model
from orchestrator.train.slices import micro_batches_needed
from orchestrator.train.start import open_checkpoint_of, use_deterministic_kernels, vocab_size
from orchestrator.train.tasks.table import make_task


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationJob:
    """What is evaluated on what; the same for every rank."""

    config: RunConfig
    manifest: Manifest
    checkpoint: Address
    split: str
    device: str  # cpu, or cuda: one device a rank
    micro_batch: int
    threads: int

    def work(self, rank: int, size: int, store: Store) -> Evaluation:
        """One rank's part. All metrics that fit the task, on every rank alike."""
        torch.set_num_threads(self.threads)
        os.environ.update(self.config.cluster.env)
        if self.config.train.deterministic:
            use_deterministic_kernels()
        device = f"cuda:{rank}" if self.device == "cuda" else "cpu"
        world = World.flat(rank, size, local_rank=rank, local_size=size)
        reader = open_checkpoint_of(self.config, self.manifest, self.checkpoint)
        join_world(world, device, store, TIMEOUT_S)
        try:
            return self._evaluate(world, device, reader)
        finally:
            reader.close()
            leave_world()

    def _evaluate(self, world: World, device: str, reader: StateReader) -> Evaluation:
        config, manifest = self.config, self.manifest
        validation = Validation(config, manifest, world, self.micro_batch, split=self.split, everything=True)
        task = make_task(config, manifest)
        build = partial(build_model, config, vocab_size(config, manifest))
        stateless = config.model_copy(update={"optim": OptimSection(name="sgd")})
        engine = Engine(
            build_empty(build, stateless, device),
            config=stateless,
            world=world,
            device=device,
            micro_batch=self.micro_batch,
            accumulation=micro_batches_needed(config.train.global_batch, world.data_size, self.micro_batch),
        )
        try:
            engine.insert(reader)
            return validation.run(engine, task, torch.device(device))
        finally:
            engine.drop()
