"""The command line. Each command loads what it needs when it is called, so that `longhaul --help` is quick."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.core.errors import LonghaulError
from orchestrator.core.words import ExitCode

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Train on clusters that break."
)
config_app = typer.Typer(no_args_is_help=True, help="Look at configs.")
app.add_typer(config_app, name="config")

Config = Annotated[Path, typer.Argument(help="a YAML config")]
Sets = Annotated[list[str] | None, typer.Argument(help="overrides: a.b=c", metavar="[A.B=C]...")]
Overlays = Annotated[list[Path] | None, typer.Option("-o", "--overlay", help="a YAML file laid over the config")]
Run = Annotated[str, typer.Argument(help="a run's name or directory")]
Root = Annotated[Path, typer.Option(help="folder of run directories")]
AsJson = Annotated[bool, typer.Option("--json", help="for programs")]


@app.command()
def run(config: Config, sets: Sets = None, overlay: Overlays = None) -> None:
    """Train here: start or join Ray, prepare the data, train, follow."""
    from launch.run import run as start
    from launch.screen import Screen

    raise typer.Exit(start(config, overlay or [], sets or [], Screen()))


@app.command()
def resume(name: Run, sets: Sets = None, overlay: Overlays = None, root: Root = Path("runs")) -> None:
    """Go on with a run from its newest sound checkpoint, on the same or another world; attach to it when it lives."""
    from launch.run import resume as go_on
    from launch.screen import Screen

    raise typer.Exit(go_on(name, root, overlay or [], sets or [], Screen()))


@app.command()
def verify(
    name: Run,
    against: Annotated[str | None, typer.Option(help="another run to compare with")] = None,
    root: Root = Path("runs"),
) -> None:
    """Prove that a run fed what its definition says, and that its checkpoints are whole."""
    from launch.proof import verify as prove
    from launch.run import find_run
    from launch.screen import Screen

    prove(find_run(name, root), find_run(against, root) if against else None, Screen())


@app.command()
def ledger(
    name: Run,
    steps: Annotated[str | None, typer.Option(help="A:B, B not included")] = None,
    as_json: AsJson = False,
    root: Root = Path("runs"),
) -> None:
    """What each step of a run fed."""
    from launch.proof import ledger_rows, parse_steps
    from launch.run import find_run

    for row in ledger_rows(find_run(name, root), parse_steps(steps) if steps else None):
        print(json.dumps(row) if as_json else "  ".join(f"{key} {value}" for key, value in row.items()))


@app.command()
def index(config: Config, sets: Sets = None, overlay: Overlays = None) -> None:
    """Read the headers of every shard, ahead of time."""
    from launch.ahead import index_ahead
    from launch.screen import Screen

    index_ahead(config, overlay or [], sets or [], Screen())


@app.command()
def prepare(config: Config, sets: Sets = None, overlay: Overlays = None) -> None:
    """Index, decide and tokenize, ahead of time; goes on where it was interrupted."""
    from launch.ahead import prepare_ahead
    from launch.screen import Screen

    prepare_ahead(config, overlay or [], sets or [], Screen())


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
def doctor(root: Root = Path("runs")) -> None:
    """What this machine can do, and what is missing."""
    from launch.doctor import show_machine

    raise typer.Exit(show_machine(root))


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


def main() -> None:
    """Errors that a person can act on end the command with their exit code, without a traceback."""
    try:
        app()
    except LonghaulError as error:
        print(f"longhaul: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("longhaul: interrupted", file=sys.stderr)
        sys.exit(ExitCode.STOPPED)


if __name__ == "__main__":
    main()
