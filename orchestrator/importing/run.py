"""Imports: finds the inputs, cuts them into jobs, has them run, and moves all shards into place at the end.

Which job gets which pieces, and so every byte, depends on inputs and options alone: not on who runs the jobs, in which
order, or how often the command was killed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.core.errors import DataError
from orchestrator.core.mapping import Progress, RunAll, run_serially, tell_nobody
from orchestrator.importing.destination import Destination, begin, held, sweep, tidy, writing_there
from orchestrator.importing.images import find_classes
from orchestrator.importing.inputs import Found, refuse_overlap
from orchestrator.importing.job import Job, Tally, run_job
from orchestrator.importing.kinds import KINDS
from orchestrator.importing.pack import END_BYTES
from orchestrator.importing.sample import Piece
from orchestrator.importing.wish import Wish
from orchestrator.storage.publish import flush_folder, read_json


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What has become of the inputs."""

    shards: int
    samples: int
    size_bytes: int
    left_out: Tally


def import_data(
    found: Found, wish: Wish, folder: Path, run_all: RunAll = run_serially, progress: Progress = tell_nobody
) -> ImportReport:
    """Go on with the import into `folder` where it stopped; when it is complete no input is opened."""
    wish.check_kind(found.kind)
    refuse_overlap(found.sources, folder)
    place = Destination(folder.expanduser().absolute())
    with held(place):
        sweep(place)
        begin(place, found.kind, wish, found.inputs)
        if not place.report.exists():
            with writing_there(place.parts):
                place.parts.mkdir(exist_ok=True)
            classes = find_classes(found.inputs) if found.kind == "images" else None
            jobs = _cut_jobs(found, wish, place, classes)
            _run_jobs(jobs, run_all, progress)
            _publish(jobs, found.others, place, classes)
        tidy(place)
        return _read_report(place)


def _cut_jobs(found: Found, wish: Wish, place: Destination, classes: list[str] | None) -> list[Job]:
    labels = {name: number for number, name in enumerate(classes or ())}
    pieces = (
        piece._replace(label=labels.get(source.below.partition("/")[0]))
        for number, source in enumerate(found.inputs)
        for piece in KINDS[found.kind].cut(source, number, wish)
    )
    return [
        Job(number=number, kind=found.kind, pieces=own, wish=wish, place=place)
        for number, own in enumerate(_group(pieces, wish.shard_bytes - END_BYTES))
    ]


def _group(pieces: Iterator[Piece], most_bytes: int) -> Iterator[tuple[Piece, ...]]:
    """Consecutive pieces that fit into a shard together; small files share one."""
    group: list[Piece] = []
    size_bytes = 0
    for piece in pieces:
        if group and size_bytes + piece.size_bytes > most_bytes:
            yield tuple(group)
            group, size_bytes = [], 0
        group.append(piece)
        size_bytes += piece.size_bytes
    yield tuple(group)


def _run_jobs(jobs: list[Job], run_all: RunAll, progress: Progress) -> None:
    left = [job for job in jobs if not job.place.marker(job.number).exists()]
    before = len(jobs) - len(left)
    progress("import", before, len(jobs))
    for done, _ in enumerate(run_all(run_job, left), before + 1):
        progress("import", done, len(jobs))


def _publish(jobs: list[Job], others: int, place: Destination, classes: list[str] | None) -> None:
    """Number the shards in the order of the inputs and move them into place; goes on if it was interrupted."""
    shards: list[dict[str, Any]] = []
    tally = Tally()
    if others:
        tally.count("file of another kind by its name", "", others)
    for job in jobs:
        marker = read_json(place.marker(job.number))
        tally.add(Tally.from_json(marker["left_out"]))
        for number, packed in enumerate(marker["shards"]):
            target = place.shard(job.wish.name, len(shards))
            _move(place.part(job.number, number), target)
            shards.append({"name": target.name, **packed, "of": marker["of"]})
    if not shards:
        raise DataError("no sample is left to import", where=str(place.folder), remedy=_explain(tally))
    if classes is not None:
        place.publish(place.classes, {"classes": classes})
    with writing_there(place.folder):
        flush_folder(place.folder)
    place.publish(place.report, {"shards": shards, "left_out": tally.as_json()})


def _move(part: Path, target: Path) -> None:
    if part.exists():
        with writing_there(target):
            part.replace(target)
    elif not target.exists():
        raise DataError(
            "a finished shard is missing",
            where=str(target),
            remedy=f"delete {target.parent} to import anew",
        )


def _explain(tally: Tally) -> str:
    reasons = "; ".join(f"{count} x {reason}" for reason, count in tally.counts.items())
    return f"left out: {reasons}" if reasons else "the inputs are empty"


def _read_report(place: Destination) -> ImportReport:
    report = read_json(place.report)
    shards = report["shards"]
    for shard in shards:
        path = place.folder / shard["name"]
        if not path.exists() or path.stat().st_size != shard["size_bytes"]:
            raise DataError(
                "was imported and is not there as it was",
                where=str(path),
                remedy=f"delete {place.folder} to import anew",
            )
    return ImportReport(
        shards=len(shards),
        samples=sum(shard["samples"] for shard in shards),
        size_bytes=sum(shard["size_bytes"] for shard in shards),
        left_out=Tally.from_json(report["left_out"]),
    )
