"""`longhaul bench-data`: what one rank's loader can do without a model, and which part of it is the limit.

Prepares what is not prepared yet, times the loader's stages (loader_stages.py), then runs the loader of training with
one thread and as the config has it."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from launch.checks.limits import count_processors, read_limits
from launch.loader_stages import BATCHING, CHECKSUMS, DECODING, ORDER, READING, TRANSFORMS, time_stages
from launch.loading import load_checked
from launch.screen import Screen
from orchestrator.config.check import replace_values
from orchestrator.config.resolve import Facts, resolve_run
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import BadInput
from orchestrator.core.words import World
from orchestrator.data.feeding.feed import open_batches
from orchestrator.data.feeding.stream import Stream
from orchestrator.data.ordering.order import Order
from orchestrator.data.ordering.skips import Skips
from orchestrator.data.shards.manifest import Manifest
from orchestrator.importing.workers import worker_processes
from orchestrator.prepare.run import prepare

FOREVER = 10**9  # steps
SCALES = 0.5  # of the speed-up that so many threads could give; below, something holds them back


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What is measured: the first of so many ranks, with so many threads."""

    config: RunConfig
    manifest: Manifest
    order: Order
    ranks: int
    threads: int

    @property
    def remote(self) -> bool:
        return any("://" in root for root in self.manifest.roots.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Of the whole loader, after its first batch."""

    threads: int
    processes: int
    samples_per_s: float
    tokens_per_s: float | None
    bytes_per_s: float
    first_batch_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """`stages` are shares of one thread's time; `advice` says what would help with the largest, the limit."""

    ranks: int
    speeds: list[Speed]
    stages: dict[str, float]
    limit: str
    advice: str


def bench_data(
    path: Path,
    overlays: Sequence[Path],
    sets: Sequence[str],
    screen: Screen,
    *,
    seconds: float,
    ranks: int | None,
    machine: bool,
) -> None:
    """A third of `seconds` goes to the stages, the rest to the loader; preparing is not counted."""
    bench = open_bench(load_checked(path, overlays, sets), ranks, screen)
    stages, step = time_stages(bench.config, bench.manifest, bench.order, bench.ranks, seconds / 3)
    speeds = [measure_loader(bench, threads, step, seconds / 3) for threads in sorted({1, bench.threads})]
    limit = max(stages, key=lambda stage: stages[stage])
    finding = Finding(ranks=bench.ranks, speeds=speeds, stages=stages, limit=limit, advice=advise(bench, limit, speeds))
    if machine:
        print(json.dumps({"format": 1, **asdict(finding)}))
    else:
        show(finding, screen)


def open_bench(config: RunConfig, ranks: int | None, screen: Screen) -> Bench:
    """Prepared and decided as for a run on machines like this one."""
    ranks = ranks or config.cluster.nodes.min * config.cluster.ranks_per_node
    if ranks > config.train.global_batch:
        raise BadInput(
            f"the first of {ranks} ranks has no sample of train.global_batch={config.train.global_batch} to load",
            where=f"--ranks {ranks}",
            remedy="measure fewer ranks, or raise train.global_batch",
        )
    cpus = count_processors(read_limits())
    with worker_processes(cpus) as run_all, screen.preparing() as progress:
        manifest = prepare(config, run_all, progress)
    facts = Facts(
        device="cpu",
        cpus_per_node=cpus,
        remote=any("://" in root for root in manifest.roots.values()),
        sample_bytes=manifest.sample_bytes,
        wandb_key=False,
    )
    config, _ = resolve_run(config, facts)
    cluster, workers = config.cluster, config.data.workers
    own_cpus = max(1, cpus // cluster.ranks_per_node) if cluster.cpus_per_rank == "auto" else cluster.cpus_per_rank
    packed = config.packed_len is not None  # one thread does all of it
    return Bench(
        config=config,
        manifest=manifest,
        order=Order.of(config, manifest),
        ranks=ranks,
        threads=1 if packed else own_cpus if workers.threads == "auto" else workers.threads,
    )


def measure_loader(bench: Bench, threads: int, first_step: int, seconds: float) -> Speed:
    """With the config's threads also its processes."""
    processes = bench.config.data.workers.processes if threads == bench.threads else 0
    config = replace_values(bench.config, {"data.workers.threads": threads, "data.workers.processes": processes})
    began = time.perf_counter()
    with Stream(
        open_batches(config, bench.manifest, bench.order, "train", threads),
        World.flat(0, bench.ranks),
        first_step=first_step,
        stop_step=first_step + FOREVER,
        skips=Skips(),
        prefetch_bytes=config.data.prefetch_bytes,
    ) as stream:
        next(stream)
        first = now = time.perf_counter()
        samples, tokens, read_bytes = 0, 0.0, 0
        while now - first < seconds:
            batch = next(stream)
            now = time.perf_counter()
            samples, tokens = samples + len(batch.slots), tokens + batch.weight
            read_bytes += batch.figures.read_bytes
    return Speed(
        threads=threads,
        processes=processes,
        samples_per_s=samples / (now - first),
        tokens_per_s=tokens / (now - first) if config.packed_len is not None else None,
        bytes_per_s=read_bytes / (now - first),
        first_batch_s=first - began,
    )


def advise(bench: Bench, limit: str, speeds: Sequence[Speed]) -> str:
    """One sentence: the limit, and the key that would help."""
    first, last = speeds[0], speeds[-1]
    held_back = last.threads > 1 and last.samples_per_s < SCALES * last.threads * first.samples_per_s
    if limit in (DECODING, TRANSFORMS) and held_back and not last.processes:
        return (
            f"{limit} takes the most time, and {last.threads} threads make it hardly faster than one: Python code that "
            f"holds the interpreter's lock is faster with data.workers.processes={last.threads}"
        )
    if limit == READING:
        return (
            "reading from the store takes the most time: raise data.run_samples (longer reads), data.workers.threads "
            "(more at once), or data.cache.limit_bytes (what is kept)"
            if bench.remote
            else "reading takes the most time: put the data on a faster disk, or leave more memory to the page cache"
        )
    more = "more data.workers.threads, and CPUs for them (cluster.cpus_per_rank)"
    what_helps = {
        ORDER: "a larger train.global_batch or a smaller data.window_samples",
        CHECKSUMS: more,
        DECODING: f"{more}; or smaller pictures in the shards",
        TRANSFORMS: f"{more}; or cheaper data.transforms",
        BATCHING: "smaller values: a resize or crop early in data.transforms",
    }
    if bench.config.packed_len is not None:
        what_helps[CHECKSUMS] = what_helps[BATCHING] = "more ranks: each packs a smaller part of train.global_batch"
    return f"{limit} takes the most time; what helps is {what_helps[limit]}"


def show(finding: Finding, screen: Screen) -> None:
    screen.say(f"loader of one rank of {finding.ranks}, without a model")
    table = Table(box=None, pad_edge=False)
    tokens = finding.speeds[0].tokens_per_s is not None
    for heading in ("threads", "processes", "samples/s", *(["tokens/s"] if tokens else []), "MB/s", "first batch"):
        table.add_column(heading, justify="right")
    for speed in finding.speeds:
        rates = [speed.samples_per_s, *([speed.tokens_per_s] if speed.tokens_per_s is not None else [])]
        cells = [speed.threads, speed.processes, *(f"{rate:,.0f}" for rate in rates)]
        table.add_row(*map(str, cells), f"{speed.bytes_per_s / 1e6:,.1f}", f"{speed.first_batch_s:.2f} s")
    screen.console.print(table, highlight=False)
    parts = sorted(finding.stages.items(), key=lambda stage: -stage[1])
    screen.say("of one thread's time: " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in parts))
    screen.say(finding.advice)
