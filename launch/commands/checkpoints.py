"""Commands about checkpoints: those of a run, in a folder, or in a store."""

from pathlib import Path
from typing import Annotated

import typer

from launch.commands.arguments import RUNS, AsJson, MoreSets, Overlays, Root, Sets, given

app = typer.Typer(no_args_is_help=True, help="Look at checkpoints, prove and copy them.")
Kept = Annotated[str, typer.Argument(help="a run's name or directory, a folder of checkpoints, or a URL of a store")]


@app.command("list")
def list_checkpoints(kept: Kept, root: Root = RUNS, as_json: AsJson = False) -> None:
    """All checkpoints, the newest last, with what was validated at their step."""
    from launch.checkpoints import find_kept, show_checkpoints
    from launch.screen import Screen

    raise typer.Exit(show_checkpoints(find_kept(kept, root), Screen(), as_json=as_json))


@app.command()
def verify(
    kept: Kept,
    checkpoint: Annotated[str | None, typer.Option(help="best, last, or a step; all when absent")] = None,
    root: Root = RUNS,
    as_json: AsJson = False,
) -> None:
    """Compare every byte with the checksums that were taken when it was written. Exit code 4: one is damaged."""
    from launch.checkpoints import find_kept, verify_checkpoints
    from launch.screen import Screen

    raise typer.Exit(verify_checkpoints(find_kept(kept, root), checkpoint, Screen(), as_json=as_json))


@app.command()
def copy(
    kept: Kept,
    target: Annotated[str, typer.Argument(help="a folder, or a URL of a store")],
    checkpoint: Annotated[str, typer.Option(help="best, last, a step, or all")] = "last",
    root: Root = RUNS,
    as_json: AsJson = False,
) -> None:
    """Copy a checkpoint to another folder or store; every byte is checked on the way and where it comes to lie."""
    from launch.checkpoints import copy_checkpoints, find_kept
    from launch.screen import Screen

    raise typer.Exit(copy_checkpoints(find_kept(kept, root), target, checkpoint, Screen(), as_json=as_json))


@app.command("import")
def import_checkpoint(
    folder: Annotated[Path, typer.Argument(help="what save_checkpoint of DeepSpeed has written")],
    config: Annotated[Path, typer.Option(help="a YAML config of the run to make")],
    sets: Sets = None,
    more_sets: MoreSets = None,
    overlay: Overlays = None,
    as_json: AsJson = False,
) -> None:
    """Make a run of what DeepSpeed has trained: weights, the optimizer's states, the step. Resume goes on with it."""
    from rich.console import Console

    from launch.screen import Screen
    from launch.takeover import import_checkpoint as take_over

    told = Screen(Console(stderr=True)) if as_json else Screen()
    take_over(folder, config, overlay or [], given(sets, more_sets), told, as_json=as_json)
