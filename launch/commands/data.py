"""Commands about data: make shards, index and prepare them ahead of a run, measure how fast they are read."""

from pathlib import Path
from typing import Annotated

import typer

from launch.commands.arguments import AsJson, Config, Overlays, Sets

app = typer.Typer()


@app.command()
def index(config: Config, sets: Sets = None, overlay: Overlays = None) -> None:
    """Read the headers of every shard, ahead of time."""
    from launch.ahead import index_ahead
    from launch.screen import Screen

    index_ahead(config, overlay or [], sets or [], Screen())


@app.command()
def prepare(
    config: Config,
    sets: Sets = None,
    overlay: Overlays = None,
    explain: Annotated[
        str | None, typer.Option(help="tell why the sample shard/key is kept or dropped; prepares nothing")
    ] = None,
    text: Annotated[bool, typer.Option(help="with --explain: show the texts too")] = False,
    as_json: AsJson = False,
) -> None:
    """Index, clean, compare and tokenize, ahead of time; goes on where it was interrupted."""
    from launch.ahead import explain_here, prepare_ahead
    from launch.screen import Screen

    if explain is None:
        prepare_ahead(config, overlay or [], sets or [], Screen(), as_json=as_json)
    else:
        explain_here(config, overlay or [], sets or [], explain, Screen(), texts=text, as_json=as_json)


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
