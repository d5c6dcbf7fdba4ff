"""`longhaul evaluate`: a checkpoint of a run on a split of its data, here and now, without Ray. Writes into the run
directory's evaluations/ and shows what came of it. The run may be training meanwhile."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from launch.checks.limits import count_processors, read_limits
from launch.screen import Screen
from orchestrator.checkpoint.choose import choose_checkpoint
from orchestrator.checkpoint.found import Found, list_checkpoints
from orchestrator.checkpoint.shelf import open_shelf
from orchestrator.config.check import replace_values
from orchestrator.config.load import load_config
from orchestrator.config.resolve import Facts, resolve_world
from orchestrator.config.run import RunConfig
from orchestrator.core.dotted import look_for_code_in
from orchestrator.core.errors import BadInput
from orchestrator.core.words import ExitCode
from orchestrator.data.ordering.order import ValidationOrder
from orchestrator.data.shards.manifest import Manifest
from orchestrator.storage.publish import publish_bytes, publish_json, read_json
from orchestrator.tracking.rundir import RunDir

if TYPE_CHECKING:
    from orchestrator.train.evaluation.offline import EvaluationJob
    from orchestrator.train.evaluation.validation import Evaluation

SPLITS = ("validation", "test")
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateWish:
    split: str = "validation"
    checkpoint: str = "last"  # best, last, or a step
    max_batches: int | None = None
    ranks: int | None = None  # None: one a GPU, or one on the CPU


def evaluate(run_dir: RunDir, wish: EvaluateWish, screen: Screen, *, as_json: bool) -> ExitCode:
    """What can be refused is refused before anything heavy is loaded."""
    config, manifest = load_config(run_dir.config).config, Manifest.load(run_dir.manifest)
    look_for_code_in(config.code)
    check_split(config, manifest, wish.split)
    found = list_checkpoints(open_shelf(config, run_dir.checkpoints))
    checkpoint = choose_checkpoint(found, wish.checkpoint, config.evaluate.best_by)
    device, ranks = choose_world(config, wish.ranks)
    job = make_job(run_dir, config, manifest, checkpoint, wish, device, ranks)
    if not as_json:
        batches = "" if wish.max_batches is None else f", at most {wish.max_batches:,} batches"
        screen.say(f"{checkpoint.name} on {wish.split}{batches}: {ranks} rank(s) on {device}")
    from orchestrator.train.evaluation.crew import run_crew
    from orchestrator.train.evaluation.scores import describe
    from orchestrator.train.evaluation.validation import class_names

    evaluation, names = run_crew(ranks, job.work), class_names(config)
    told = describe_job(run_dir, checkpoint, wish, ranks) | describe(evaluation.values, evaluation.scores, names)
    written = list(write(run_dir, told, evaluation, names, wish))
    if as_json:
        print(json.dumps(told))
        return ExitCode.DONE
    from launch.screens.scores import draw_evaluation

    screen.console.print(draw_evaluation(evaluation, names), highlight=False)
    for path in written:
        screen.say(str(path))
    return ExitCode.DONE


def check_split(config: RunConfig, manifest: Manifest, split: str) -> None:
    """There is such a split, and something in it."""
    if split not in SPLITS:
        raise BadInput(f"must be {' or '.join(SPLITS)}", where=f"--split {split}")
    shares = config.data.split
    if not (shares.test if split == "test" else shares.validation or shares.folds):
        raise BadInput(
            f"data.split.{split} is 0 in this run: no sample was kept from training for it",
            where=f"--split {split}",
            remedy=f"a run keeps its split: begin another with data.split.{split}=0.1, or take the other split",
        )
    ValidationOrder.of(config, manifest, split)


def choose_world(config: RunConfig, ranks: int | None) -> tuple[Device, int]:
    """The run's kind of device where this machine has it, else the CPU."""
    devices = 0
    if config.cluster.device == "cuda":
        import torch

        devices = torch.cuda.device_count()
    if devices:
        if ranks is not None and ranks > devices:
            raise BadInput(f"there are {devices} GPUs here, one a rank", where=f"--ranks {ranks}")
        return "cuda", ranks or min(devices, config.train.global_batch)
    if config.train.precision == "fp16":
        raise BadInput(
            "the run computes in fp16, which only GPUs do, and there is none here",
            where="train.precision",
            remedy="evaluate it on a machine with a GPU",
        )
    return "cpu", ranks or 1


def make_job(
    run_dir: RunDir,
    config: RunConfig,
    manifest: Manifest,
    checkpoint: Found,
    wish: EvaluateWish,
    device: Device,
    ranks: int,
) -> "EvaluationJob":
    """Batches are cut as training would on so many ranks, so that the same world gives the same numbers."""
    config = replace_values(config, {"cluster.device": device, "evaluate.max_batches": wish.max_batches})
    facts = Facts(**read_json(run_dir.plan)["facts"] | {"device": device})
    micro_batch = resolve_world(config, facts, ranks).micro_batch
    stated = config.cluster.cpus_per_rank
    from orchestrator.train.evaluation.offline import EvaluationJob

    return EvaluationJob(
        config=config,
        manifest=manifest,
        checkpoint=checkpoint.path,
        split=wish.split,
        device=device,
        micro_batch=micro_batch,
        threads=max(1, count_processors(read_limits()) // ranks) if stated == "auto" else stated,
    )


def describe_job(run_dir: RunDir, checkpoint: Found, wish: EvaluateWish, ranks: int) -> dict[str, Any]:
    return {
        "format": 1,
        "run": run_dir.path.name,
        "split": wish.split,
        "step": checkpoint.step,
        "checkpoint": checkpoint.name,
        "max_batches": wish.max_batches,
        "ranks": ranks,
    }


def write(
    run_dir: RunDir, told: dict[str, Any], evaluation: "Evaluation", names: Sequence[str], wish: EvaluateWish
) -> Iterator[Path]:
    """The files, as they are written. Of only some batches under another name: a part never replaces the whole."""
    from orchestrator.train.evaluation.classes import ClassScores

    part = "" if wish.max_batches is None else f"-first-{wish.max_batches}"
    stem = f"{wish.split}-{told['step']}{part}"
    path = run_dir.evaluations / f"{stem}.json"
    publish_json(path, told)
    yield path
    if not isinstance(evaluation.scores, ClassScores):
        return
    from orchestrator.train.evaluation.pictures import draw_confusion_matrix, draw_roc

    title = f"{told['run']}, step {told['step']}, {wish.split}"
    pictures = {"confusion_matrix": draw_confusion_matrix} | ({"roc": draw_roc} if evaluation.scores.curves else {})
    for what, draw in pictures.items():
        path = run_dir.evaluations / f"{stem}-{what}.png"
        publish_bytes(path, draw(evaluation.scores, names, title))
        yield path
