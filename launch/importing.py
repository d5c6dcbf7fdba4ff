"""`longhaul import`: makes plain tar shards of other kinds of files, in processes of this machine."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

from rich.table import Table
from rich.text import Text

from launch.screen import Screen
from orchestrator.core.errors import BadInput
from orchestrator.core.mapping import tell_nobody
from orchestrator.importing.inputs import find_inputs
from orchestrator.importing.run import ImportReport, import_data
from orchestrator.importing.wish import KindName, OnBad, Wish, parse_member
from orchestrator.importing.workers import worker_processes


def make_wish(*, kind: str | None, on_bad: str, members: Sequence[str], **rest: Any) -> tuple[Wish, KindName | None]:
    """What the command line says, checked."""
    for option, given, known in (("--from", kind, get_args(KindName)), ("--on-bad", on_bad, get_args(OnBad))):
        if given is not None and given not in known:
            raise BadInput(f"is none of {', '.join(known)}", where=f"{option} {given}", remedy="give one of them")
    pairs = tuple(map(parse_member, members))
    return Wish(members=pairs, on_bad=cast(OnBad, on_bad), **rest), cast("KindName | None", kind)


def import_here(
    sources: Sequence[str],
    folder: Path,
    wish: Wish,
    screen: Screen,
    *,
    kind: KindName | None,
    workers: int | None,
    as_json: bool,
) -> None:
    """`kind` by the names and `workers` by the CPUs when they are None."""
    found = find_inputs(sources, kind)
    with screen.preparing() as progress, worker_processes(workers or len(os.sched_getaffinity(0))) as run_all:
        report = import_data(found, wish, folder, run_all, tell_nobody if as_json else progress)
    if as_json:
        print(json.dumps(_as_json(report, folder)))
    else:
        _show(report, folder, screen)


def _as_json(report: ImportReport, folder: Path) -> dict[str, object]:
    return {
        "format": 1,
        "folder": str(folder.absolute()),
        "shards": report.shards,
        "samples": report.samples,
        "size_bytes": report.size_bytes,
        "left_out": report.left_out.as_json(),
    }


def _show(report: ImportReport, folder: Path, screen: Screen) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("shards", Text(f"{report.shards:,} in {folder}"))
    table.add_row("samples", f"{report.samples:,}")
    table.add_row("bytes", f"{report.size_bytes:,}")
    for reason, count in sorted(report.left_out.counts.items()):
        first = report.left_out.first[reason]
        table.add_row("left out", Text(f"{count:,} x {reason}" + (f", first {first}" if first else "")))
    screen.console.print(table, highlight=False)
    screen.say(f"use them: data.train[].path: {folder.absolute()}")
