"""Commands that start nothing: what a config says and needs, and what machines can do."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.commands.arguments import RUNS, Address, AsJson, Config, Overlays, Root, Sets
from orchestrator.core.errors import BadInput

if TYPE_CHECKING:
    from launch.checks.check import Checkup
    from launch.screen import Screen

app = typer.Typer()
config_app = typer.Typer(no_args_is_help=True, help="Look at configs.")


@app.command()
def plan(
    config: Config,
    sets: Sets = None,
    overlay: Overlays = None,
    nodes: Annotated[str | None, typer.Option(help="numbers of nodes, for example 4,8,16")] = None,
    as_json: AsJson = False,
) -> None:
    """Batch arithmetic and state memory a rank, for each world and ZeRO stage. Exit code 3: does not fit."""
    from launch.plan import show_plan
    from launch.screen import Screen

    show_plan(config, overlay or [], sets or [], nodes, as_json, Screen())


@app.command()
def doctor(root: Root = RUNS, address: Address = None, as_json: AsJson = False) -> None:
    """What this machine, or every node of a cluster, can do, and what is missing."""
    from launch.doctor import show_checkup, show_machine
    from launch.screen import Screen

    screen = Screen()
    if address is None:
        raise typer.Exit(show_machine(root, as_json=as_json, screen=screen))
    raise typer.Exit(show_checkup(check_nodes_of(address, root, screen), as_json=as_json, screen=screen))


@config_app.command("show")
def config_show(
    config: Config,
    sets: Sets = None,
    overlay: Overlays = None,
    provenance: Annotated[bool, typer.Option(help="say where each value was written")] = False,
) -> None:
    """The whole config, defaults included."""
    from orchestrator.config.load import load_config
    from orchestrator.config.show import dump_yaml, show_provenance

    loaded = load_config(config, overlay or [], sets or [])
    print(show_provenance(loaded) if provenance else dump_yaml(loaded.config).rstrip())


@config_app.command("schema")
def config_schema(overlay: Annotated[bool, typer.Option(help="the schema of overlays")] = False) -> None:
    """JSON Schema for editors."""
    from orchestrator.config.show import json_schema

    print(json.dumps(json_schema(overlay=overlay), indent=1))


@config_app.command("diff")
def config_diff(old: Config, new: Config) -> None:
    """Keys whose values differ, with their marks."""
    from orchestrator.config.load import load_config
    from orchestrator.config.show import show_diff

    print(show_diff(load_config(old).config, load_config(new).config))


def check_nodes_of(address: str, root: Path, screen: "Screen") -> "Checkup":
    """`auto`: the cluster around this machine; otherwise one behind a dashboard, where the same is done."""
    if not root.is_absolute():
        raise BadInput(
            "is relative", where=f"--root {root}", remedy="give the folder as the nodes of the cluster see it"
        )
    with screen.console.status("looking at every node"):
        if address == "auto":
            from launch.checks.cluster import check_cluster

            return check_cluster(address, root)
        from launch.checks.check import Checkup
        from launch.remote.dashboard import Dashboard

        [found] = Dashboard(address).ask("doctor", "--address=auto", f"--root={root}", "--json")
        return Checkup.from_json(json.loads(found))
