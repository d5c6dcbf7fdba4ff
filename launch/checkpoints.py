"""`longhaul checkpoint list | verify | copy`: the checkpoints of a run, in a folder, or below a URL of a store."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from launch.here import find_run
from launch.planning import gib
from launch.screen import Screen
from orchestrator.checkpoint.choose import choose_checkpoint
from orchestrator.checkpoint.copying import copy_checkpoint
from orchestrator.checkpoint.found import Found, list_checkpoints, verify_on
from orchestrator.checkpoint.remote_shelf import RemoteShelf
from orchestrator.checkpoint.shelf import LocalShelf, Shelf, open_shelf
from orchestrator.config.load import load_config
from orchestrator.core.words import ExitCode
from orchestrator.storage.stores import StoreSettings


@dataclass(frozen=True, slots=True)
class Kept:
    """A shelf, and what its run says of it. `settings` are for stores that are named beside it."""

    shelf: Shelf
    best_by: str = "loss"
    settings: StoreSettings = field(default_factory=StoreSettings)


def find_kept(target: str, root: Path) -> Kept:
    """`target`: a run by name or directory, a folder with checkpoints, or a URL with some below it."""
    if "://" in target:
        return Kept(RemoteShelf(target, StoreSettings()))
    if LocalShelf(Path(target)).list():
        return Kept(LocalShelf(Path(target)))
    run_dir = find_run(target, root)
    config = load_config(run_dir.config).config
    shelf = open_shelf(config, run_dir.checkpoints)
    return Kept(shelf, config.evaluate.best_by, StoreSettings.of(config.data))


def show_checkpoints(kept: Kept, screen: Screen, *, as_json: bool) -> ExitCode:
    """All of them, the newest last. Looks at everything but the bytes of the state."""
    found = list_checkpoints(kept.shelf)
    if as_json:
        print(json.dumps({"format": 1, "checkpoints": [describe(one) for one in found]}))
    elif found:
        screen.console.print(draw(found), highlight=False)
    else:
        screen.say(f"{kept.shelf.where('')} has no checkpoint")
    return ExitCode.DONE


def verify_checkpoints(kept: Kept, wish: str | None, screen: Screen, *, as_json: bool) -> ExitCode:
    """Every byte of all, or of the one that is wished for. NOT_VERIFIED when one is damaged."""
    problems = {one.name: verify_on(kept.shelf, one.name) for one in choose(kept, wish)}
    if as_json:
        rows = [{"checkpoint": name, "sound": not wrong, "problems": wrong} for name, wrong in problems.items()]
        print(json.dumps({"format": 1, "checkpoints": rows}))
    else:
        for line in tell_verified(problems):
            screen.say(line)
    return ExitCode.NOT_VERIFIED if any(problems.values()) else ExitCode.DONE


def copy_checkpoints(kept: Kept, target: str, wish: str, screen: Screen, *, as_json: bool) -> ExitCode:
    """`target`: a folder, or a URL of a store."""
    into = RemoteShelf(target, kept.settings) if "://" in target else LocalShelf(Path(target).absolute())
    copied = []
    for one in choose(kept, None if wish == "all" else wish):
        copied.append(str(copy_checkpoint(kept.shelf, one.name, into)))
        if not as_json:
            screen.say(f"copied and verified: {copied[-1]}")
    if as_json:
        print(json.dumps({"format": 1, "copied": copied}))
    return ExitCode.DONE


def choose(kept: Kept, wish: str | None) -> Sequence[Found]:
    found = list_checkpoints(kept.shelf)
    return found if wish is None else [choose_checkpoint(found, wish, kept.best_by)]


def describe(one: Found) -> dict[str, Any]:
    return {
        "name": one.name,
        "address": str(one.path),
        "step": one.step,
        "generation": one.generation,
        "size_bytes": one.size_bytes,
        "metrics": measured(one),
        "problem": one.problem,
    }


def measured(one: Found) -> dict[str, float]:
    return {name: value for name, value in one.metrics.items() if name != "step"}


def draw(found: Sequence[Found]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("step", justify="right")
    table.add_column("checkpoint", overflow="fold", no_wrap=False)
    table.add_column("size", justify="right")
    table.add_column("validated", overflow="fold")
    for one in found:
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in measured(one).items())
        told = f"damaged: {one.problem}" if one.problem else metrics
        table.add_row(f"{one.step:,}", one.name, gib(one.size_bytes), escape(told))
    return table


def tell_verified(problems: dict[str, list[str]]) -> Iterator[str]:
    for name, wrong in problems.items():
        yield f"{name} is sound" if not wrong else f"{name} is damaged"
        yield from wrong
    if not problems:
        yield "there is no checkpoint"
