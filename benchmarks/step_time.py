"""Step time and memory peak of Longhaul's trainer beside the bare DeepSpeed loop, at ZeRO stages 0 to 3.

Time: in pairs of one step each in the same two processes. Both have engines of their own with the same weights at
first, get the same batches and train the quickstart's model on 2 CPU ranks (gloo). The bare loop's batches lie ready in
memory; Longhaul's step reads them by its stream, digests the ledger, agrees in its all-reduce and tells its news to a
scribe actor that writes files and W&B offline. What a step leaves to threads (the next batch, the news) is waited for
before the bare step begins, so that it does not slow that one down. Two ratios enclose the truth: `step` leaves that
waiting out, `settled` counts it as if nothing could overlap. Controller and node actor are not there; quickstart.py has
them.

Memory: each of the two alone in two new processes, for a few steps. The peak is the kernel's of the whole process since
its imports were done (VmHWM), so it holds them too. Keep the machine quiet. Run:

    python benchmarks/step_time.py --pairs 300 [--stages 0,1,2,3]
"""

import argparse
import itertools
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

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
from orchestrator.checkpoint.vault import Vault
from orchestrator.config.check import replace_values
from orchestrator.config.load import load_config
from orchestrator.config.resolve import WorldPlan, resolve_run, resolve_world
from orchestrator.config.run import RunConfig
from orchestrator.config.show import dump_yaml
from orchestrator.control.board import Board
from orchestrator.control.jobs import RunHandle
from orchestrator.core.clock import SystemClock
from orchestrator.core.news import News, Sink
from orchestrator.core.words import World
from orchestrator.data.feeding.growing import GrowingOrder
from orchestrator.data.feeding.packed import PackedBatches
from orchestrator.data.feeding.read import TokenReader
from orchestrator.data.ordering.skips import Skips
from orchestrator.data.shards.manifest import Manifest
from orchestrator.prepare.run import prepare
from orchestrator.tracking.rows import read_metrics
from orchestrator.tracking.rundir import RunDir
from orchestrator.train.agreement import sum_over_ranks
from orchestrator.train.engine import join_world, warm
from orchestrator.train.job import TrainJob
from orchestrator.train.loop import Trainer
from orchestrator.train.models.build import describe_model
from orchestrator.train.models.initial import initial_source

RANKS = 2
WARM_UP = 10  # pairs that do not count
MEMORY_STEPS = 6
RESAMPLES = 10_000
MOST, MOST_MEMORY = 1.01, 1.02
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


@dataclass(frozen=True)
class Peaks:
    """Bytes a rank, the larger of the two."""

    bare: int
    own: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--stages", default="0,1,2,3")
    options = parser.parse_args()
    stages = [int(stage) for stage in options.stages.split(",")]
    with tempfile.TemporaryDirectory(prefix="step-time-") as folder:
        configs = {stage: read_config(Path(folder), options.pairs, stage) for stage in stages}
        first = configs[stages[0]]
        path = Path(first.root) / first.name
        with reached_cluster(first, path, trains=False) as cluster, cluster.connected():
            found = {stage: measure_stage(config, options.pairs) for stage, config in configs.items()}
    for stage, (measured, peaks) in found.items():
        show(stage, measured, peaks)


def measure_stage(config: RunConfig, pairs: int) -> tuple[Measured, Peaks]:
    run_dir = RunDir(Path(config.root) / config.name)
    plan = make_run(config, run_dir)
    return measure(run_dir, plan, pairs)


def read_config(folder: Path, pairs: int, stage: int) -> RunConfig:
    """The quickstart without validation and checkpoints, and one batch ahead instead of all that memory holds."""
    sets = [
        f"root={folder}/runs", f"name=stage{stage}", f"deepspeed.zero_optimization.stage={stage}",
        f"data.work={folder}/work", f"data.train.0.path={folder}/demo",
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


def measure(run_dir: RunDir, plan: WorldPlan, pairs: int) -> tuple[Measured, Peaks]:
    """Start scribe and ranks in the Ray that is connected; time as rank 0 has it."""
    import ray  # Ray reads its token when it is imported

    from orchestrator.control.scribe import ScribeActor

    run = RunHandle(path=run_dir.path, key=run_dir.key)
    scribe = ray.remote(ScribeActor).options(name=run.actor_name("scribe"), num_cpus=0).remote(run.path, {}, NEVER_S)
    ray.get(scribe.renew.remote())
    peaks = {}
    for way in ("bare", "longhaul"):  # before anything else is told to the scribe, which takes each step once
        task = ray.remote(num_cpus=1, max_retries=0, max_calls=1)(measure_memory)
        peaks[way] = max(ray.get([task.remote(run, plan, rank, way) for rank in range(RANKS)]))
    task = ray.remote(num_cpus=1, max_retries=0, max_calls=1)(measure_on_rank)
    measured: Measured = ray.get([task.remote(run, plan, rank, pairs) for rank in range(RANKS)])[0]
    ray.kill(scribe)
    return measured, Peaks(bare=peaks["bare"], own=peaks["longhaul"])


def measure_memory(run: RunHandle, plan: WorldPlan, rank: int, way: Literal["bare", "longhaul"]) -> int:
    """The peak of a process in which only one of the two trains; what it tells goes nowhere."""
    world = World.flat(rank, RANKS, rank, RANKS)
    warm("cpu", threads=1)
    join_world(world, "cpu", FileStore(str(run.path / f"store-{way}"), RANKS), timeout_s=600.0)
    config, manifest = load_config(RunDir(run.path).config).config, Manifest.load(RunDir(run.path).manifest)
    if way == "longhaul":
        forget_peak()
        trainer = make_trainer(RunDir(run.path), plan, world, NoSink())
        for _ in range(MEMORY_STEPS):
            trainer.train_step()
        return peak_bytes()
    order = GrowingOrder(config, manifest, lambda: True)
    batches = fill_batches(manifest, order, world, MEMORY_STEPS)
    forget_peak()
    bare = build_engine(read_sizes(config, manifest), RANKS)
    for tokens in batches:
        train_step(bare, tokens)
    return peak_bytes()


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


class NoSink:
    """A core.news.Sink."""

    told = settled = 0

    def tell(self, news: News) -> None: ...

    def flush(self) -> None: ...


def measure_on_rank(run: RunHandle, plan: WorldPlan, rank: int, pairs: int) -> Measured:
    """One rank: both trainers, turn by turn. Which of the two begins changes from pair to pair."""
    from orchestrator.control.abort import WayOut
    from orchestrator.control.line import Line

    world, sink = World.flat(rank, RANKS, rank, RANKS), Line(open_relay(run), WayOut(), lambda: None)
    warm("cpu", threads=1)
    join_world(world, "cpu", FileStore(str(run.path / "store"), RANKS), timeout_s=600.0)
    trainer = make_trainer(RunDir(run.path), plan, world, sink)
    bare = make_bare_engine(trainer)
    seconds = np.zeros((WARM_UP + pairs, 3))
    bare_losses = []
    for step, tokens in enumerate(fill_batches(trainer.job.manifest, trainer.order, world, WARM_UP + pairs)):
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
        for settled in itertools.count(1):
            ray.get(scribe.write.remote(relay.recv().news))
            relay.send(settled)

    threading.Thread(target=carry, daemon=True).start()
    return ours


def make_trainer(
    run_dir: RunDir,
    plan: WorldPlan,
    world: World,
    sink: Sink,
    vault: Vault | None = None,
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> Trainer:
    """As control/rank.py makes it."""
    job = TrainJob(
        config=replace_values(load_config(run_dir.config).config, dict(changes)),
        manifest=Manifest.load(run_dir.manifest),
        world=world,
        generation=1,
        device="cpu",
        micro_batch=plan.micro_batch,
        accumulation=plan.accumulation,
        checkpoints=run_dir.checkpoints,
        skips_file=run_dir.skips,
        start=None,
        sink=sink,
        helm=Board.create()[0],
        clock=SystemClock(),
        vault=vault,
    )
    return Trainer(job)


def make_bare_engine(trainer: Trainer) -> Any:
    """The peer's engine with the weights that the trainer began with: the fragments of step 0, whole."""
    sizes = read_sizes(trainer.config, trainer.job.manifest)
    source = initial_source(trainer.config, sizes.vocab_size)
    weights = {
        tensor.name: source.read(tensor.name, MASTER, 0, tensor.numel).view(tensor.shape).clone()
        for tensor in describe_model(trainer.config, sizes.vocab_size).tensors
        if tensor.kind == "trainable"
    }
    return build_engine(sizes, RANKS, weights)


def read_sizes(config: RunConfig, manifest: Manifest) -> Sizes:
    return replace(Sizes.read(), vocab_size=manifest.tokenizer.vocab_size, zero_stage=config.zero_stage)


def fill_batches(manifest: Manifest, order: Any, world: World, steps: int) -> list[torch.Tensor]:
    """What the trainer will feed on this rank, ahead of time."""
    maker = PackedBatches(order, TokenReader(manifest, "train"))
    return [torch.from_numpy(maker.make(step, world, Skips()).fields["tokens"]) for step in range(steps)]


def settle(trainer: Trainer, sink: Any) -> None:
    """Wait for what the step has left to threads: the batch after the next one, and news on the scribe's disk."""
    trainer.stream._ahead[-1].future.result()
    sink.flush()


# ---- the outcome ----


def show(stage: int, measured: Measured, peaks: Peaks) -> None:
    pairs = len(measured.bare)
    title = f"ZeRO-{stage}: step time, {pairs} pairs, 95 % intervals by bootstrap; memory peak"
    table = Table(title=title, title_justify="left")
    for heading in ("", "median s", "ratio", "interval", "loss, first -> last", "peak GiB", "ratio"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_row(
        "bare DeepSpeed", f"{np.median(measured.bare):.4f}", "", "", _arrow(measured.bare_losses), _gib(peaks.bare)
    )
    for name, own in (("Longhaul, step", measured.step), ("Longhaul, settled", measured.settled)):
        low, high = bootstrap_interval(own, measured.bare)
        ratio = np.median(own) / np.median(measured.bare)
        losses = _arrow(measured.own_losses)
        memory = (_gib(peaks.own), f"{peaks.own / peaks.bare:.4f}")
        table.add_row(name, f"{np.median(own):.4f}", f"{ratio:.4f}", f"{low:.4f} to {high:.4f}", losses, *memory)
    table.caption = f"at most {MOST} and {MOST_MEMORY} asked"
    Console(width=110).print(table)


def bootstrap_interval(own: Series, bare: Series) -> tuple[float, float]:
    """95 % of the ratios of medians when pairs are drawn again with replacement. The draw is the same every time."""
    drawn = np.random.default_rng(0).integers(len(own), size=(RESAMPLES, len(own)))
    ratios = np.median(own[drawn], axis=1) / np.median(bare[drawn], axis=1)
    low, high = np.percentile(ratios, (2.5, 97.5))
    return float(low), float(high)


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.3f}"


def _arrow(losses: tuple[float, float]) -> str:
    return f"{losses[0]:.3f} -> {losses[1]:.3f}"


if __name__ == "__main__":
    main()
