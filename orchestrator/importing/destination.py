"""The folder that an import fills. Until everything is there it lies in a hidden folder, which listings pass over.

DEST/NAME-000000.tar ...    the shards; DEST/classes.json of images in class folders
DEST/.import/import.json    the options, published first; with inputs.arrow, the files and their stamps
DEST/.import/parts/         shards of finished and unfinished jobs, gone at the end
DEST/.import/done/          a marker for each finished job, gone at the end
DEST/.import/report.json    what was made of what, published last
DEST/.import/lock           held by the command at work; a dead one holds nothing"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.core.errors import BadInput, DataError
from orchestrator.importing.sample import Input
from orchestrator.importing.wish import KindName, Wish
from orchestrator.storage.publish import publish_bytes, publish_json, read_json, writing
from orchestrator.storage.tables import encode_table, map_table

_OURS = ".import"


def writing_there(path: Path) -> contextlib.AbstractContextManager[None]:
    """Say which file could not be written. What is done stays done."""
    again = "then run the same command again: it goes on where it stopped"
    return writing(path, f"free space there or make it writable, {again}")


@dataclass(frozen=True, slots=True)
class Destination:
    """Names of everything in it. `folder` is absolute, since jobs run in other processes."""

    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / _OURS

    @property
    def parts(self) -> Path:
        return self.state / "parts"

    def part(self, job: int, number: int) -> Path:
        return self.parts / f"{job:06d}-{number:06d}.tar"

    @property
    def markers(self) -> Path:
        return self.state / "done"

    def marker(self, job: int) -> Path:
        return self.markers / f"{job:06d}.json"

    @property
    def report(self) -> Path:
        return self.state / "report.json"

    @property
    def classes(self) -> Path:
        return self.folder / "classes.json"

    def shard(self, name: str, number: int) -> Path:
        return self.folder / f"{name}-{number:06d}.tar"

    def publish(self, path: Path, value: dict[str, Any]) -> None:
        with writing_there(path):
            publish_json(path, {"format": 1, **value})


@contextlib.contextmanager
def held(place: Destination) -> Iterator[None]:
    """Nobody else imports into it meanwhile."""
    if not place.state.exists():
        _refuse_strangers(place.folder)
    with writing_there(place.state):
        place.state.mkdir(parents=True, exist_ok=True)
        lock = os.open(place.state / "lock", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BadInput(
            "another import into this folder is under way", where=str(place.folder), remedy="wait until it has ended"
        ) from error
    else:
        yield
    finally:
        os.close(lock)


def sweep(place: Destination) -> None:
    """What killed imports were writing goes: files that were not whole yet, and so not under their names."""
    halves = [half for folder in (place.state, place.parts, place.markers) for half in folder.glob(".*.part")]
    halves += place.folder.glob(f".{place.classes.name}.*.part")  # what else is hidden there is not ours
    with writing_there(place.folder):
        for half in halves:
            half.unlink(missing_ok=True)  # a worker that has not heard yet may tidy up, too


def begin(place: Destination, kind: KindName, wish: Wish, inputs: Sequence[Input]) -> None:
    """Write down what is imported; if something of it is done already, find that it is of the same."""
    head, listing = place.state / "import.json", place.state / "inputs.arrow"
    options, table = {"kind": kind, **wish.as_json()}, _as_table(inputs)
    if place.report.exists() or any(place.markers.glob("*.json")):
        before = read_json(head)["options"]
        if before["on_bad"] == "fail":
            before["on_bad"] = wish.on_bad  # what is done had nothing bad
        _refuse_other_options(place, before, options)
        _refuse_other_inputs(place, map_table(listing, remedy=_begin_anew(place))[0], table)
    with writing_there(listing):
        publish_bytes(listing, encode_table(table, {}))
    place.publish(head, {"options": options})


def tidy(place: Destination) -> None:
    """A complete import needs its shards and its report only."""
    for folder in (place.parts, place.markers):
        shutil.rmtree(folder, ignore_errors=True)


def _refuse_strangers(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise DataError("is no folder", where=str(folder), remedy="name another destination")
    found = next(iter(sorted(folder.iterdir())), None) if folder.is_dir() else None
    if found is not None:
        raise DataError(
            f"holds {found.name} already, which no import made",
            where=str(folder),
            remedy="name an empty or new folder as destination",
        )


def _begin_anew(place: Destination) -> str:
    return f"name another destination, or delete {place.folder} to import anew"


def _refuse_other_options(place: Destination, old: dict[str, Any], new: dict[str, Any]) -> None:
    different = [f"{key} was {old.get(key)!r}, is {value!r}" for key, value in new.items() if old.get(key) != value]
    if different:
        raise BadInput(
            f"was imported with other options: {'; '.join(different)}",
            where=str(place.folder),
            remedy=f"give the same options; or {_begin_anew(place)}",
        )


def _refuse_other_inputs(place: Destination, old: pa.Table, new: pa.Table) -> None:
    if old.equals(new):
        return
    before, now = (dict(zip(*table.to_pydict().values(), strict=True)) for table in (old, new))
    changed = [f"{path} has changed" for path in before if path in now and before[path] != now[path]]
    gone = [f"{path} is gone" for path in before if path not in now]
    come = [f"{path} was not there" for path in now if path not in before]
    different = [*changed, *gone, *come] or ["their order is another"]
    raise BadInput(
        f"was imported from other inputs: {'; '.join(different[:5])}{'; ...' if len(different) > 5 else ''}",
        where=str(place.folder),
        remedy=f"put the inputs back; or {_begin_anew(place)}",
    )


def _as_table(inputs: Sequence[Input]) -> pa.Table:
    columns = {"path": [one.path for one in inputs], "stamp": [one.stamp for one in inputs]}
    return pa.table(columns, schema=pa.schema({"path": pa.string(), "stamp": pa.string()}))
