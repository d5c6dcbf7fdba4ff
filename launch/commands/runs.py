"""Commands about runs: start, follow, stop and prove them. Most can be about runs of this machine or of a cluster."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.commands.arguments import (
    RUNS,
    Address,
    AddressNeeded,
    AsJson,
    Code,
    Config,
    MoreSets,
    NoCode,
    NotSecret,
    OrResume,
    Overlays,
    Root,
    Roots,
    Run,
    Sets,
    given,
)

if TYPE_CHECKING:
    from launch.place import Place
    from launch.screen import Screen

app = typer.Typer()
track_app = typer.Typer(no_args_is_help=True, help="Weights & Biases.")


@app.command()
def run(
    config: Config,
    sets: Sets = None,
    more_sets: MoreSets = None,
    overlay: Overlays = None,
    or_resume: OrResume = False,
    folds: Annotated[int | None, typer.Option(min=2, help="cross-validate: so many runs, on a part each")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="with --folds: the outcome for programs")] = False,
) -> None:
    """Train here: start or join Ray, prepare the data, train, follow."""
    from launch.run import run as start
    from launch.screen import Screen

    if folds is not None:
        from rich.console import Console

        from launch.folds import run_folds

        told = Screen(Console(stderr=True)) if as_json else Screen()
        raise typer.Exit(run_folds(config, overlay or [], given(sets, more_sets), folds, told, as_json=as_json))
    if as_json:
        raise typer.BadParameter("--json needs --folds; `longhaul status RUN --json` tells of one run")
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
def drain(
    name: Annotated[
        str | None, typer.Argument(help="a run; those with ranks on this machine when absent", metavar="[RUN]")
    ] = None,
    node: Annotated[str | None, typer.Option(help="its address or name; this machine when absent")] = None,
    grace_s: Annotated[float, typer.Option("--grace", help="seconds until it is taken away")] = 30.0,
    root: Root = RUNS,
) -> None:
    """Say that a node is about to go: the run leaves it at the next step, or stops after a checkpoint."""
    from launch.drain import drain as ask
    from launch.screen import Screen
    from orchestrator.core.clock import SystemClock

    ask(name, root, node, grace_s, clock=SystemClock(), screen=Screen())


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
def profile(
    target: Annotated[str, typer.Argument(help="a run's name or directory, or a YAML config")],
    sets: Sets = None,
    more_sets: MoreSets = None,
    overlay: Overlays = None,
    steps: Annotated[str, typer.Option(help="A:B, B not included")] = "5:8",
    ranks: Annotated[str, typer.Option(help="numbers of ranks, or all")] = "0",
    root: Root = RUNS,
) -> None:
    """Train some steps once more, in a copy of the run, under torch's profiler; the run itself is not touched."""
    from launch.profile import profile as look_at
    from launch.screen import Screen

    raise typer.Exit(look_at(target, steps, ranks, root, overlay or [], given(sets, more_sets), Screen()))


@app.command()
def debug(
    target: Annotated[str, typer.Argument(help="a run's name or directory, or a YAML config")],
    sets: Sets = None,
    more_sets: MoreSets = None,
    overlay: Overlays = None,
    steps: Annotated[
        str | None, typer.Option(help="A:B, B not included; a run begins at a checkpoint before A")
    ] = None,
    root: Root = RUNS,
) -> None:
    """Train as one rank in this very process, without Ray: breakpoints work. Nothing of a run is written."""
    from launch.debug import debug as train_here
    from launch.screen import Screen

    train_here(target, steps, root, overlay or [], given(sets, more_sets), Screen())


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
def evaluate(
    name: Run,
    split: Annotated[str, typer.Option(help="validation or test")] = "validation",
    checkpoint: Annotated[str, typer.Option(help="best, last, or a step")] = "last",
    max_batches: Annotated[int | None, typer.Option(min=1, help="at most so many global batches")] = None,
    ranks: Annotated[
        int | None, typer.Option(min=1, help="processes that share the work; one a GPU, or one, when absent")
    ] = None,
    root: Root = RUNS,
    as_json: AsJson = False,
) -> None:
    """Measure a checkpoint on a split, on this machine: every metric that fits the task, and pictures."""
    from launch.evaluate import EvaluateWish
    from launch.evaluate import evaluate as measure
    from launch.here import find_run
    from launch.screen import Screen

    wish = EvaluateWish(split=split, checkpoint=checkpoint, max_batches=max_batches, ranks=ranks)
    raise typer.Exit(measure(find_run(name, root), wish, Screen(), as_json=as_json))


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
