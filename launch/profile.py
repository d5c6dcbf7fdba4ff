"""`longhaul profile`: some steps of a run under torch's profiler, in a copy that begins at its last checkpoint before
them. The run itself is not touched, whether it lives or has ended."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from launch.here import find_run
from launch.loading import load_checked
from launch.paths import with_absolute_paths
from launch.proof import parse_steps
from launch.run import Copy, check_root, train_copy
from launch.screen import Screen
from launch.shelves import shelf_of_run
from orchestrator.checkpoint.copying import copy_checkpoint
from orchestrator.checkpoint.found import Found, list_checkpoints
from orchestrator.checkpoint.shelf import LocalShelf, Shelf, shelf_of
from orchestrator.config.check import replace_values
from orchestrator.config.load import load_config
from orchestrator.config.resolve import Decision, undecide
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import BadInput
from orchestrator.core.words import ExitCode
from orchestrator.storage.publish import publish_json, read_json
from orchestrator.storage.stores import StoreSettings
from orchestrator.tracking.rundir import RunDir

PROFILES = "profiles"
MOST_SHOWN = 20


def profile(
    target: str, steps: str, ranks: str, root: Path, overlays: Sequence[Path], sets: Sequence[str], screen: Screen
) -> ExitCode:
    """`target`: a run by name or path, or a config, whose steps then begin at 0."""
    wanted, chosen = parse_steps(steps), parse_ranks(ranks)
    name = f"steps-{wanted.start}-{wanted.stop}"
    config, original = read_target(target, root, overlays, sets)
    if config.train.steps is not None and wanted.stop > config.train.steps:
        raise BadInput(f"the run has {config.train.steps} steps", where=f"--steps {steps}")
    if original is None:
        check_root(Path(config.root))
        copy = RunDir(Path(config.root) / f"{config.name}-{PROFILES}-{name}")
    else:
        copy = RunDir(original.path / PROFILES / name)
    start = find_start(shelf_of_run(original), wanted.start) if original is not None else None
    at = start.step if start is not None else 0
    screen.say(
        f"a copy of {target} trains steps {at} to {wanted.stop - 1}; the profiler watches from {wanted.start} on"
    )

    def fill(folder: Path) -> None:
        request = {"first_step": wanted.start, "stop_step": wanted.stop, "ranks": chosen}
        publish_json(folder / "requests" / "excerpt.json", {"format": 1, **request})
        if start is not None:  # the run may throw its checkpoint away meanwhile
            take_checkpoint(config, start, folder / "checkpoints")
        if original is not None and original.skips.exists():
            shutil.copy(original.skips, folder / original.skips.name)

    code = train_copy(config, Copy(original, fill), copy, screen)
    if code is ExitCode.DONE:
        show_profiles(copy.path, chosen, screen)
    return code


def read_target(
    target: str, root: Path, overlays: Sequence[Path], sets: Sequence[str]
) -> tuple[RunConfig, RunDir | None]:
    """The config to train with, and the run that it is of, if any. W&B hears nothing of a copy."""
    if Path(target).is_file():
        config, original = load_checked(Path(target), overlays, sets), None
    else:
        original = find_run(target, root)
        decided = [Decision(**decision) for decision in read_json(original.plan)["decisions"]]
        config = undecide(with_absolute_paths(load_config(original.config, overlays, sets).config), decided)
    return replace_values(config, {"tracking.wandb.mode": "off", "checkpoint.store": None}), original


def parse_ranks(text: str) -> list[int] | None:
    """None: all of them."""
    if text == "all":
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts):
        raise BadInput("must be numbers of ranks, or all", where=f"--ranks {text}", remedy="for example --ranks 0,1")
    return sorted({int(part) for part in parts})


def find_start(kept: Shelf | Path, step: int) -> Found | None:
    """The last checkpoint from which the step can be reached."""
    sound = [found for found in list_checkpoints(kept) if not found.problem and found.step <= step]
    return sound[-1] if sound else None


def take_checkpoint(config: RunConfig, start: Found, folder: Path) -> None:
    if isinstance(start.path, Path):
        shutil.copytree(start.path, folder / start.name, copy_function=link_or_copy)
    else:
        copy_checkpoint(*shelf_of(start.path, StoreSettings.of(config.data)), LocalShelf(folder))


def link_or_copy(file: str, into: str) -> None:
    try:
        os.link(file, into)
    except OSError:  # not every file system has links
        shutil.copy(file, into)


def show_profiles(folder: Path, ranks: Sequence[int] | None, screen: Screen) -> None:
    """The operators of the first rank, and where the traces lie."""
    found = sorted(folder.glob("rank-*.trace.json.gz"))
    if not found:
        raise BadInput(f"the run has no rank {', '.join(map(str, ranks or ()))}", where="--ranks")
    first = found[0].name.removesuffix(".trace.json.gz")
    show_operators(first, read_json(folder / f"{first}.json")["operators"], screen)
    screen.say(f"traces, for ui.perfetto.dev or chrome://tracing: {folder}")
    if list(folder.glob("*.memory.html")):
        screen.say("and maps of memory, for a browser: *.memory.html")


def show_operators(rank: str, operators: Sequence[dict[str, float | str]], screen: Screen) -> None:
    total = sum(float(operator["self_s"]) for operator in operators)
    table = Table(title=f"{rank}: time in operators themselves", title_justify="left", box=None, pad_edge=False)
    table.add_column("operator", overflow="fold")
    for heading in ("calls", "ms", "share"):
        table.add_column(heading, justify="right")
    for operator in operators[:MOST_SHOWN]:
        seconds = float(operator["self_s"])
        table.add_row(
            Text(str(operator["name"])), f"{operator['calls']:,}", f"{1e3 * seconds:,.1f}", f"{seconds / total:.1%}"
        )
    screen.console.print(table)
