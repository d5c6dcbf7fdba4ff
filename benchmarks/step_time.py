"""Step time of Longhaul's trainer against the bare DeepSpeed loop, in pairs of one step each in the same two processes.

Both have engines of their own with the same initial weights, get the same batches and train the quickstart's model at
ZeRO-2 on 2 CPU ranks (gloo). The bare loop's batches lie ready in memory; Longhaul's step reads them by its stream,
digests the ledger, agrees in its all-reduce and tells its news to a scribe actor that writes files and W&B offline.
What a step leaves to threads (the next batch, the news) is waited for before the bare step begins, so that it does
not slow that one down. Two ratios enclose the truth: `step` leaves that waiting out, `settled` counts it as if nothing
could overlap. Controller and node actor are not there; quickstart.py has them. Keep the machine quiet. Run:

    python benchmarks/step_time.py --pairs 300
"""

import argparse
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bare_deepspeed import QUICKSTART, Sizes, build_engine, train_step
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch.distributed import FileStore  # type: ignore[attr-defined]

from launch.cluster import reached_cluster
from launch.run import gather_facts, with_absolute_paths
from orchestrator.checkpoint.fragments import MASTER
from orchestrator.config.load import load_config
from orchestrator.config.resolve import WorldPlan, resolve_run, resolve_world
from orchestrator.config.run import RunConfig
from orchestrator.config.show import dump_yaml
from orchestrator.control.board import Board
from orchestrator.control.jobs import RunHandle
from orchestrator.core.clock import SystemClock
from orchestrator.core.news import Sink
from orchestrator.core.words import World
from orchestrator.data.feeding.batch import fill_batch
from orchestrator.data.feeding.read import TokenReader
from orchestrator.data.ordering.skips import Skips
from orchestrator.data.shards.manifest import Manifest
from orchestrator.prepare.run import prepare
from orchestrator.tracking.rows import read_metrics
from orchestrator.tracking.rundir import RunDir
from orchestrator.train.engine import join_world, sum_over_ranks, warm
from orchestrator.train.job import TrainJob
from orchestrator.train.loop import Trainer
from orchestrator.train.models.initial import initial_source

RANKS = 2
WARM_UP = 10  # pairs that do not count
RESAMPLES = 10_000
MOST = 1.02
NEVER_S = 1e6

Series = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """Seconds by pair, and the losses of both at first and last."""

    bare: Series
    step: Series
    settled: Series
    bare_losses: tuple[float, float]
    own_losses: tuple[float, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="step-time-") as folder:
        config = read_config(Path(folder), options.pairs)
        run_dir = RunDir(Path(config.root) / config.name)
        with reached_cluster(config, run_dir.path, trains=False):
            plan = make_run(config, run_dir)
            measured = measure(run_dir, plan, options.pairs)
    show(measured)


def read_config(folder: Path, pairs: int) -> RunConfig:
    """The quickstart without validation and checkpoints, and one batch ahead instead of all that memory holds."""
    sets = [
        f"root={folder}/runs", f"data.work={folder}/work", f"data.train.0.path={folder}/demo",
        f"train.steps={WARM_UP + pairs + 2}", "evaluate.every_steps=null", "checkpoint.every_steps=null",
        "checkpoint.keep.best=0", "schedule.name=constant", "schedule.warmup_steps=0", "data.prefetch_bytes=1",
        f"cluster.ranks_per_node={RANKS}", "tracking.wandb.mode=offline",
    ]  # fmt: skip
    return with_absolute_paths(load_config(QUICKSTART, sets=sets).config)


def make_run(config: RunConfig, run_dir: RunDir) -> WorldPlan:
    """Data, and the files that scribe and ranks read."""
    manifest = prepare(config)
    facts = gather_facts(config, manifest)
    config, _ = resolve_run(config, facts)
    run_dir.path.mkdir(parents=True)
    run_dir.config.write_text(dump_yaml(config))
    manifest.write(run_dir.manifest)
    return resolve_world(config, facts, RANKS)


def measure(run_dir: RunDir, plan: WorldPlan, pairs: int) -> Measured:
    """Start scribe and ranks in the Ray that is connected; the answer of rank 0."""
    import ray  # Ray reads its token when it is imported

    from orchestrator.control.scribe import ScribeActor

    run = RunHandle(path=run_dir.path, key=run_dir.key)
    scribe = ray.remote(ScribeActor).options(name=run.actor_name("scribe"), num_cpus=0).remote(run.path, {}, NEVER_S)
    ray.get(scribe.renew.remote())
    task = ray.remote(measure_on_rank).options(num_cpus=1, max_retries=0)
    measured: Measured = ray.get([task.remote(run, plan, rank, pairs) for rank in range(RANKS)])[0]
    return measured


def measure_on_rank(run: RunHandle, plan: WorldPlan, rank: int, pairs: int) -> Measured:
    """One rank: both trainers, turn by turn. Which of the two begins changes from pair to pair."""
    from orchestrator.control.rank import NewsSender

    world, sink = World.flat(rank, RANKS, rank, RANKS), NewsSender(open_relay(run))
    warm("cpu", threads=1)
    join_world(world, "cpu", FileStore(str(run.path / "store"), RANKS), timeout_s=600.0)
    trainer = make_trainer(RunDir(run.path), plan, world, sink)
    bare = make_bare_engine(trainer)
    seconds = np.zeros((WARM_UP + pairs, 3))
    bare_losses = []
    for step, tokens in enumerate(fill_batches(trainer, WARM_UP + pairs)):
        for way in ("bare", "longhaul") if step % 2 else ("longhaul", "bare"):
            torch.distributed.barrier()
            began = time.perf_counter()
            if way == "bare":
                bare_losses.append(train_step(bare, tokens))
                seconds[step, 0] = time.perf_counter() - began
            else:
                trainer.train_step()
                seconds[step, 1] = time.perf_counter() - began
                settle(trainer, sink)
                seconds[step, 2] = time.perf_counter() - began
    trainer.close()
    bare_losses = [total / RANKS for total in sum_over_ranks(bare_losses)]
    losses = [row["loss"] for row in read_metrics(run.path)]
    bare_s, step_s, settled_s = seconds[WARM_UP:].T
    return Measured(bare_s, step_s, settled_s, (bare_losses[0], bare_losses[-1]), (losses[0], losses[-1]))


def open_relay(run: RunHandle) -> Connection:
    """A connection whose other end hands parcels to the scribe as a node actor does; here the rank pays for it."""
    import ray

    ours, relay = Pipe()
    scribe = ray.get_actor(run.actor_name("scribe"), namespace=run.namespace)

    def carry() -> None:
        while True:
            ray.get(scribe.write.remote(relay.recv().news))
            relay.send(None)

    threading.Thread(target=carry, daemon=True).start()
    return ours


def make_trainer(run_dir: RunDir, plan: WorldPlan, world: World, sink: Sink) -> Trainer:
    """As control/rank.py makes it."""
    job = TrainJob(
        config=load_config(run_dir.config).config,
        manifest=Manifest.load(run_dir.manifest),
        world=world,
        generation=1,
        device="cpu",
        micro_batch=plan.micro_batch,
        accumulation=plan.accumulation,
        checkpoints=run_dir.checkpoints,
        start=None,
        sink=sink,
        helm=Board.create()[0],
        clock=SystemClock(),
    )
    return Trainer(job)


def make_bare_engine(trainer: Trainer) -> Any:
    """The peer's engine with the weights that the trainer began with: the fragments of step 0, whole."""
    sizes = replace(Sizes.read(), vocab_size=trainer.job.manifest.tokenizer.vocab_size)
    source = initial_source(trainer.config, sizes.vocab_size)
    weights = {
        name: source.read(name, MASTER, 0, parameter.numel()).view(parameter.shape).clone()
        for name, parameter in trainer.engine.module.named_parameters()
    }
    return build_engine(sizes, RANKS, weights)


def fill_batches(trainer: Trainer, steps: int) -> list[torch.Tensor]:
    """What the trainer will feed on this rank, ahead of time."""
    reader = TokenReader(trainer.job.manifest, "train")
    batches = [fill_batch(trainer.order, reader, step, trainer.world, Skips()) for step in range(steps)]
    return [torch.from_numpy(batch.fields["tokens"]) for batch in batches]


def settle(trainer: Trainer, sink: Any) -> None:
    """Wait for what the step has left to threads: the batch after the next one, and news on the scribe's disk."""
    trainer.stream._ahead[-1].future.result()
    sink.flush()


# ---- the outcome ----


def show(measured: Measured) -> None:
    pairs = len(measured.bare)
    table = Table(title=f"step time, {pairs} pairs, 95 % intervals by bootstrap", title_justify="left")
    for heading in ("", "median s", "ratio to bare", "interval", "loss, first -> last"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_row("bare DeepSpeed", f"{np.median(measured.bare):.4f}", "", "", _arrow(measured.bare_losses))
    for name, own in (("Longhaul, step", measured.step), ("Longhaul, settled", measured.settled)):
        low, high = bootstrap_interval(own, measured.bare)
        ratio = np.median(own) / np.median(measured.bare)
        losses = _arrow(measured.own_losses)
        table.add_row(name, f"{np.median(own):.4f}", f"{ratio:.4f}", f"{low:.4f} to {high:.4f}", losses)
    table.caption = f"{MOST} asked"
    Console(width=110).print(table)


def bootstrap_interval(own: Series, bare: Series) -> tuple[float, float]:
    """95 % of the ratios of medians when pairs are drawn again with replacement. The draw is the same every time."""
    drawn = np.random.default_rng(0).integers(len(own), size=(RESAMPLES, len(own)))
    ratios = np.median(own[drawn], axis=1) / np.median(bare[drawn], axis=1)
    low, high = np.percentile(ratios, (2.5, 97.5))
    return float(low), float(high)


def _arrow(losses: tuple[float, float]) -> str:
    return f"{losses[0]:.3f} -> {losses[1]:.3f}"


if __name__ == "__main__":
    main()
