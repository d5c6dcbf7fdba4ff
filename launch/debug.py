"""`longhaul debug`: the trainer as one rank in this very process, for a debugger. No Ray, no controller, no run.

The numbers are those of a run with one rank: the same config, data, step and trainer."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from launch.checks.limits import count_processors, read_limits
from launch.profile import find_start, read_target
from launch.proof import parse_steps
from launch.run import decide
from launch.screen import Screen
from launch.shelves import shelf_of_run
from orchestrator.config.check import replace_values
from orchestrator.config.resolve import Facts, resolve_world
from orchestrator.config.run import RunConfig
from orchestrator.core.clock import SystemClock
from orchestrator.core.dotted import look_for_code_in
from orchestrator.core.errors import BadInput
from orchestrator.core.news import EvaluationNews, HolesNews, News, StepNews, TroubleNews, VoidedNews
from orchestrator.core.words import Excerpt, Word, World
from orchestrator.data.shards.manifest import Manifest
from orchestrator.prepare.run import prepare
from orchestrator.storage.publish import read_json
from orchestrator.tracking.rundir import RunDir

# One rank on one node; transforms of the user's own run in this process too.
IN_HERE = {"cluster.nodes": {"min": 1, "max": 1}, "cluster.ranks_per_node": 1, "data.workers.processes": 0}


def debug(
    target: str, steps: str | None, root: Path, overlays: Sequence[Path], sets: Sequence[str], screen: Screen
) -> None:
    """`target`: a run by name or path, or a config. Whatever is raised comes through as it is."""
    import torch

    config, original = read_target(target, root, overlays, sets)
    config = replace_values(config, IN_HERE)
    look_for_code_in(config.code)
    manifest = have_prepared(config, original, screen)
    facts = Facts(
        device="cuda" if torch.cuda.is_available() else "cpu",
        cpus_per_node=count_processors(read_limits()),
        remote=any("://" in path for path in manifest.roots.values()),
        sample_bytes=manifest.sample_bytes,
        wandb_key=False,
    )
    config, _ = decide(config, facts, manifest)
    wanted = parse_steps(steps) if steps is not None else range(config.train.num_steps)
    if wanted.stop > config.train.num_steps:
        raise BadInput(f"the run has {config.train.num_steps} steps", where=f"--steps {steps}")
    train_in_here(config, manifest, facts, wanted, original, screen)


def have_prepared(config: RunConfig, original: RunDir | None, screen: Screen) -> Manifest:
    """Without Ray: one piece of the data after the other."""
    with screen.preparing() as progress:
        manifest = prepare(config, progress=progress)
    if original is None:
        return manifest
    stored = read_json(original.manifest)
    manifest.check_prefix(stored["segments"])
    return manifest.first(stored.get("expected", len(stored["segments"])))


def train_in_here(
    config: RunConfig, manifest: Manifest, facts: Facts, wanted: range, original: RunDir | None, screen: Screen
) -> None:
    import torch
    from torch.distributed import HashStore  # type: ignore[attr-defined]

    from orchestrator.train.engine import join_world, leave_world
    from orchestrator.train.job import TrainJob
    from orchestrator.train.loop import train

    plan, world = resolve_world(config, facts, 1), World.flat(0, 1)
    device = "cuda:0" if config.cluster.device == "cuda" else "cpu"
    start = find_start(shelf_of_run(original), wanted.start) if original is not None else None
    torch.set_num_threads(plan.cpus_per_rank)
    join_world(world, device, HashStore(), timeout_s=600.0)
    with tempfile.TemporaryDirectory(prefix="longhaul-debug-") as folder:
        job = TrainJob(
            config=config,
            manifest=manifest,
            world=world,
            generation=1,
            device=device,
            micro_batch=plan.micro_batch,
            accumulation=plan.accumulation,
            checkpoints=Path(folder),  # of an excerpt none are written
            skips_file=original.skips if original is not None else Path(folder) / "skips.jsonl",
            start=start.path if start is not None else None,
            sink=ScreenSink(screen, wanted.start),
            helm=QuietHelm(),
            clock=SystemClock(),
            excerpt=Excerpt(first_step=wanted.start, stop_step=wanted.stop),
        )
        train(job)
    leave_world()


class ScreenSink:
    """A core.news.Sink that shows steps from the first that is wanted on, and keeps nothing."""

    told = settled = 0

    def __init__(self, screen: Screen, first_step: int) -> None:
        self._screen, self._first_step = screen, first_step

    def tell(self, news: News) -> None:
        match news:
            case StepNews() if news.step >= self._first_step:
                loss, norm = news.metrics["loss"], news.metrics["grad_norm"]
                self._screen.say(f"step {news.step}: loss {loss!r}, gradient norm {norm!r}")
            case EvaluationNews():
                told = ", ".join(f"{name} {value:.6g}" for name, value in news.metrics.items())
                self._screen.say(f"{news.split} after step {news.step - 1}: {told}")
            case TroubleNews():
                self._screen.say(f"step {news.step}: {news.describe()}")
            case VoidedNews():
                self._screen.say(f"step {news.step}: its batch would be left out of a run")
            case HolesNews():
                for hole in news.holes:
                    self._screen.say(f"step {news.step}: {hole.sample} does not decode: {hole.reason}")

    def flush(self) -> None:
        """What was told has been shown."""


class QuietHelm:
    """A core.news.Helm of nobody: the debugger is at the wheel."""

    def word(self) -> Word:
        return Word.GO_ON

    def show(self, step: int, phase: str) -> None: ...

    def show_busy(self, seconds: float) -> None: ...
