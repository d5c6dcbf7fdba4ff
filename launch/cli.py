"""The command line. Each command loads what it needs when it is called, so that `longhaul --help` is quick."""

import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.core.errors import BadInput, LonghaulError
from orchestrator.core.words import ExitCode

if TYPE_CHECKING:
    from launch.checks.check import Checkup
    from launch.place import Place
    from launch.screen import Screen

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Train on clusters that break."
)
config_app = typer.Typer(no_args_is_help=True, help="Look at configs.")
app.add_typer(config_app, name="config")
track_app = typer.Typer(no_args_is_help=True, help="Weights & Biases.")
app.add_typer(track_app, name="track")

Config = Annotated[Path, typer.Argument(help="a YAML config")]
Sets = Annotated[list[str] | None, typer.Argument(help="overrides: a.b=c", metavar="[A.B=C]...")]
MoreSets = Annotated[list[str] | None, typer.Option("--set", help="an override, as a.b=c is; repeatable")]
Overlays = Annotated[list[Path] | None, typer.Option("-o", "--overlay", help="a YAML file laid over the config")]
RUNS = Path("runs")
Run = Annotated[str, typer.Argument(help="a run's name or directory")]
Root = Annotated[Path, typer.Option(help="folder of run directories")]
Roots = Annotated[list[Path] | None, typer.Option("--root", help="folder of run directories")]
_DASHBOARD = "the Ray dashboard of a cluster, for example http://10.0.0.1:8265"
Address = Annotated[str | None, typer.Option(help=_DASHBOARD, envvar="LONGHAUL_ADDRESS")]
AddressNeeded = Annotated[str, typer.Option(help=_DASHBOARD, envvar="LONGHAUL_ADDRESS", show_default=False)]
OrResume = Annotated[bool, typer.Option("--or-resume", help="go on with the run if it has begun")]
Code = Annotated[Path, typer.Option(help="folder of your code, sent along", show_default="this one")]
NoCode = Annotated[bool, typer.Option("--no-code", help="send no code but Longhaul's")]
NotSecret = Annotated[list[str] | None, typer.Option(help="a file that only looks like a secret; repeatable")]
AsJson = Annotated[bool, typer.Option("--json", help="for programs")]


@app.command()
def run(
    config: Config,
    sets: Sets = None,
    more_sets: MoreSets = None,
    overlay: Overlays = None,
    or_resume: OrResume = False,
) -> None:
    """Train here: start or join Ray, prepare the data, train, follow."""
    from launch.run import run as start
    from launch.screen import Screen

    raise typer.Exit(start(config, overlay or [], given(sets, more_sets), Screen(), or_resume=or_resume))


@app.command()
def submit(
    config: Config,
    sets: Sets = None,
    more_sets: MoreSets = None,
    overlay: Overlays = None,
    address: AddressNeeded = "",
    code: Code = Path(),
    no_code: NoCode = False,
    not_secret: NotSecret = None,
    or_resume: OrResume = False,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="watch the run afterwards")] = False,
) -> None:
    """Train on a Ray cluster: send code and config through its dashboard, and leave the run in its hands."""
    from launch.remote.submit import Parcel
    from launch.remote.submit import submit as send
    from launch.screen import Screen

    parcel = Parcel(code=None if no_code else code, not_secret=not_secret or [])
    sent = send(
        config,
        overlay or [],
        given(sets, more_sets),
        Screen(),
        address=address,
        parcel=parcel,
        or_resume=or_resume,
        follow=follow,
    )
    raise typer.Exit(sent)


@app.command()
def resume(
    name: Run,
    sets: Sets = None,
    more_sets: MoreSets = None,
    overlay: Overlays = None,
    root: Root = RUNS,
    address: Address = None,
    code: Code = Path(),
    no_code: NoCode = False,
    not_secret: NotSecret = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="with --address: watch the run afterwards")] = False,
) -> None:
    """Go on with a run from its newest sound checkpoint, on the same or another world; attach to it when it lives."""
    from launch.screen import Screen

    overlays, screen = overlay or [], Screen()
    if address is None:
        from launch.run import resume as go_on

        raise typer.Exit(go_on(name, root, overlays, given(sets, more_sets), screen))
    from launch.remote.submit import Parcel, resume_there

    parcel = Parcel(code=None if no_code else code, not_secret=not_secret or [])
    raise typer.Exit(
        resume_there(name, overlays, given(sets, more_sets), screen, address=address, parcel=parcel, follow=follow)
    )


@app.command("list")
def list_runs(root: Roots = None, address: Address = None, as_json: AsJson = False) -> None:
    """All runs, the newest first."""
    from launch.status import show_list

    place, screen = find_place(root or [RUNS], address)
    raise typer.Exit(show_list(place, as_json=as_json, screen=screen))


@app.command()
def status(
    name: Run,
    watch: Annotated[bool, typer.Option("-w", "--watch", help="keep showing it until the run has ended")] = False,
    root: Root = RUNS,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """How a run is doing, or what it waits for."""
    from launch.status import show_status

    place, screen = find_place([root], address)
    raise typer.Exit(show_status(place, name, watch=watch, as_json=as_json, screen=screen))


@app.command()
def logs(
    name: Run,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="go on until the run has ended")] = False,
    rank: Annotated[int | None, typer.Option(help="only this rank")] = None,
    lines: Annotated[int, typer.Option(min=0, help="that many last lines of each log; 0 for all")] = 50,
    root: Root = RUNS,
    address: Address = None,
    as_json: AsJson = False,
    cursor: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """What a run's processes print; of a failed run, the rank that failed first comes first."""
    from launch.logs import show_logs
    from orchestrator.tracking.logs import LogWish

    place, screen = find_place([root], address)
    wish = LogWish(rank=rank, follow=follow, lines=lines or None, cursor=json.loads(cursor) if cursor else {})
    raise typer.Exit(show_logs(place, name, wish, as_json=as_json, screen=screen))


@app.command()
def stop(
    name: Run,
    at_once: Annotated[bool, typer.Option("--now", help="give up the steps since the last checkpoint")] = False,
    wait: Annotated[bool, typer.Option(help="wait until it has stopped")] = True,
    root: Root = RUNS,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Stop a run after a checkpoint; it can be resumed."""
    from launch.stop import stop as ask

    place, screen = find_place([root], address)
    raise typer.Exit(ask(place, name, at_once=at_once, wait=wait, as_json=as_json, screen=screen))


@app.command()
def prune(
    names: Annotated[list[str] | None, typer.Argument(help="runs; all when none is given", metavar="[RUN]...")] = None,
    older_than: Annotated[float | None, typer.Option(help="only runs that ended so many days ago")] = None,
    whole: Annotated[bool, typer.Option("--whole", help="the run directories themselves")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="remove what is shown")] = False,
    root: Roots = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Free the space of what ended runs no longer need; shows it first."""
    from launch.leftovers import PruneWish
    from launch.prune import prune as tidy

    place, screen = find_place(root or [RUNS], address)
    wish = PruneWish(older_than_days=older_than, whole=whole)
    raise typer.Exit(tidy(place, names or [], wish, yes=yes, as_json=as_json, screen=screen))


@app.command()
def verify(
    name: Run,
    against: Annotated[str | None, typer.Option(help="another run to compare with")] = None,
    root: Root = RUNS,
) -> None:
    """Prove that a run fed what its definition says, and that its checkpoints are whole."""
    from launch.here import find_run
    from launch.proof import verify as prove
    from launch.screen import Screen

    prove(find_run(name, root), find_run(against, root) if against else None, Screen())


@app.command()
def ledger(
    name: Run,
    steps: Annotated[str | None, typer.Option(help="A:B, B not included")] = None,
    as_json: AsJson = False,
    root: Root = RUNS,
) -> None:
    """What each step of a run fed."""
    from launch.here import find_run
    from launch.proof import ledger_rows, parse_steps

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


@app.command("import")
def import_data(
    paths: Annotated[list[str], typer.Argument(help="files or folders to read, and last the folder to make")],
    kind: Annotated[
        str | None, typer.Option("--from", help="tar, jsonl, parquet or images; by the names when absent")
    ] = None,
    name: Annotated[str, typer.Option(help="what the shards' names begin with")] = "shard",
    text: Annotated[str | None, typer.Option(help="rows: the field that becomes .txt")] = None,
    key: Annotated[str | None, typer.Option(help="rows: the field that becomes the key")] = None,
    member: Annotated[list[str] | None, typer.Option(help="rows: suffix=FIELD, more than once")] = None,
    drop_rest: Annotated[bool, typer.Option(help="rows: leave out fields that no option names")] = False,
    shard_bytes: Annotated[int, typer.Option(help="most bytes in a shard")] = 256 * 2**20,
    shard_samples: Annotated[int | None, typer.Option(help="most samples in a shard")] = None,
    on_bad: Annotated[str, typer.Option(help="fail or skip: what to do with what cannot be used")] = "fail",
    workers: Annotated[int | None, typer.Option(help="processes; as many as CPUs when absent")] = None,
    as_json: AsJson = False,
) -> None:
    """Make tar shards of compressed tars, jsonl, parquet or folders of images; goes on where it was interrupted."""
    from launch.importing import import_here, make_wish
    from launch.screen import Screen

    wish, chosen = make_wish(
        kind=kind, on_bad=on_bad, members=member or [], name=name, text=text, key=key, drop_rest=drop_rest,
        shard_bytes=shard_bytes, shard_samples=shard_samples,
    )  # fmt: skip
    *sources, folder = paths
    import_here(sources, Path(folder), wish, Screen(), kind=chosen, workers=workers, as_json=as_json)


@app.command("bench-data")
def bench_data(
    config: Config,
    sets: Sets = None,
    overlay: Overlays = None,
    seconds: Annotated[float, typer.Option(min=1.0, help="how long to measure")] = 10.0,
    ranks: Annotated[
        int | None, typer.Option(min=1, help="be the first of so many ranks; the config's when absent")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What the loader can do without a model, and which part of it is the limit."""
    from launch.bench_data import bench_data as bench
    from launch.screen import Screen

    bench(config, overlay or [], sets or [], Screen(), seconds=seconds, ranks=ranks, machine=as_json)


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


@track_app.command("sync")
def track_sync(
    name: Run,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be sent")] = False,
    root: Root = RUNS,
) -> None:
    """Send a run that was offline to Weights & Biases, as one run."""
    from launch.here import find_run
    from launch.screen import Screen
    from launch.track import sync

    raise typer.Exit(sync(find_run(name, root), dry_run=dry_run, screen=Screen()))


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


def given(sets: list[str] | None, more_sets: list[str] | None) -> list[str]:
    return [*(sets or []), *(more_sets or [])]


def find_place(roots: list[Path], address: str | None) -> tuple["Place", "Screen"]:
    """Where the runs are that a command is about, and the screen it writes to."""
    from launch.screen import Screen

    screen = Screen()
    if address is None:
        from launch.here import Here

        return Here(roots), screen
    from launch.remote.dashboard import Dashboard
    from launch.remote.there import There

    return There(Dashboard(address), screen.say), screen


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


def main() -> None:
    """Errors that a person can act on end the command with their exit code, without a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a name that the terminal cannot show must not end the command
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
