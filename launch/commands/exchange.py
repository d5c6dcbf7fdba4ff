"""Commands that hand models out, and take them in: for and from other tools."""

from pathlib import Path
from typing import Annotated

import typer

from launch.commands.arguments import RUNS, AsJson, MoreSets, Overlays, Root, Run, Sets, given

app = typer.Typer()
checkpoint_app = typer.Typer(no_args_is_help=True, help="Checkpoints.")


@app.command()
def export(
    name: Run,
    checkpoint: Annotated[str, typer.Option(help="best, last, or a step")] = "last",
    output: Annotated[
        Path | None, typer.Option(help="the folder to make", show_default="exports/step-N of the run")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="fp32, bf16 or fp16", show_default="what the run computed with")
    ] = None,
    shard_gb: Annotated[float, typer.Option(min=0.001, help="most gigabytes in a file")] = 5.0,
    root: Root = RUNS,
    as_json: AsJson = False,
) -> None:
    """Write a checkpoint's model as a Hugging Face directory: config, tokenizer, safetensors."""
    from launch.export import ExportWish
    from launch.export import export as hand_out
    from launch.here import find_run
    from launch.screen import Screen

    wish = ExportWish(checkpoint=checkpoint, output=output, dtype=dtype, shard_gb=shard_gb)
    hand_out(find_run(name, root), wish, Screen(), as_json=as_json)


@checkpoint_app.command("import")
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
