"""`longhaul chaos`: what it takes and whom it asks."""

from typing import Annotated

import typer

from launch.commands.arguments import AsJson, Config, MoreSets, Overlays, Sets, given

app = typer.Typer()


@app.command()
def chaos(
    config: Config,
    sets: Sets = None,
    more_sets: MoreSets = None,
    overlay: Overlays = None,
    faults: Annotated[
        str | None, typer.Option(help="what to break, and when: 'kill rank 1 @ 20; cut node 1 @ 60 for 5s'")
    ] = None,
    random: Annotated[bool, typer.Option("--random", help="break what chance says, in place of --faults")] = False,
    seed: Annotated[int, typer.Option(help="with --random: the same faults again")] = 0,
    mtbf: Annotated[str, typer.Option(help="with --random: mean time between faults")] = "30s",
    count: Annotated[
        int | None, typer.Option(min=1, help="with --random: so many faults; else until the run ends")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="keep the three runs though all went well")] = False,
    as_json: AsJson = False,
) -> None:
    """Break a run on purpose and prove that nothing of it is lost. Exit code 4: a promise broke."""
    from rich.console import Console

    from launch.chaos.chaos import ChaosWish
    from launch.chaos.chaos import chaos as break_on_purpose
    from launch.chaos.faults import parse_seconds
    from launch.screen import Screen

    if (faults is None) != random:
        raise typer.BadParameter("give either --faults or --random")
    wish = ChaosWish(faults=faults, seed=seed, mtbf_s=parse_seconds(mtbf, "--mtbf"), count=count, keep=keep)
    screen = Screen(Console(stderr=True)) if as_json else Screen()
    raise typer.Exit(break_on_purpose(config, overlay or [], given(sets, more_sets), wish, screen, as_json=as_json))
