"""Which checkpoints there are and whether they are whole. Needs no torch: the controller asks, too.

Nothing is believed before its checksum: COMMIT vouches for the manifest, the manifest for the records, a record for its
rank's file, of which every chunk is checked before it is used (chunks.py)."""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from orchestrator.checkpoint import layout
from orchestrator.checkpoint.chunks import CheckedFile, RecentChunks
from orchestrator.checkpoint.layout import MayUse, RankRecord, checkpoint_name, use_any
from orchestrator.checkpoint.shelf import Address, Shelf, shelf_of, to_shelf
from orchestrator.core.errors import CheckpointDamaged
from orchestrator.storage.stores import StoreSettings


class Found(NamedTuple):
    """A committed checkpoint. `problem` is what a look at all but the rank files' bytes found wrong."""

    path: Address
    step: int
    generation: int
    metrics: Mapping[str, float] = MappingProxyType({})  # of the validation of its step; empty when there was none
    problem: str = ""
    size_bytes: int = 0

    @property
    def name(self) -> str:
        return checkpoint_name(self.step, self.generation)


def list_checkpoints(kept: Shelf | Path) -> list[Found]:
    """Committed checkpoints, newest last."""
    shelf = to_shelf(kept)
    return [_look_at(shelf, name, files) for name, files in in_order(shelf.list()) if layout.COMMIT in files]


def newest_sound(
    kept: Shelf | Path, *, thoroughly: bool = True, may_use: MayUse = use_any
) -> tuple[Address | None, list[str]]:
    """The newest checkpoint that is whole, and what is wrong with every newer one. Not `thoroughly`: what a look shows;
    whoever reads it checks what it reads."""
    shelf = to_shelf(kept)
    problems: list[str] = []
    for name, files in reversed(in_order(shelf.list())):
        found = _look_at(shelf, name, files)
        if not may_use(found.generation, found.step):
            continue
        wrong = [found.problem] if found.problem else verify_on(shelf, name) if thoroughly else []
        if not wrong:
            return found.path, problems
        problems += wrong
    return None, problems


def verify(address: Address, settings: StoreSettings | None = None) -> list[str]:
    """Everything that is wrong with a checkpoint, every byte looked at."""
    return verify_on(*shelf_of(address, settings))


def verify_on(shelf: Shelf, name: str) -> list[str]:
    """The same of a checkpoint on a shelf; several files at once."""
    try:
        _, records = read_outline(shelf, name)
    except CheckpointDamaged as damage:
        return [str(damage)]
    with ThreadPoolExecutor(max_workers=min(8, len(records))) as pool:
        return [problem for problem in pool.map(partial(_file_problem, shelf, name), records) if problem]


def open_checked(shelf: Shelf, name: str, record: RankRecord, recent: RecentChunks | None = None) -> CheckedFile:
    """A rank's file, of which nothing unchecked can be read."""
    return CheckedFile(partial(shelf.open, name, record.file), record, shelf.where(name, record.file), recent)


def read_outline(shelf: Shelf, name: str) -> tuple[dict[str, Any], list[RankRecord]]:
    """Manifest and records, checked against COMMIT."""
    commit = _read(shelf, name, layout.COMMIT, "is missing: the checkpoint was never finished")
    manifest_bytes = _read(shelf, name, layout.MANIFEST)
    if commit != layout.commit_bytes(manifest_bytes):
        where = shelf.where(name)
        raise CheckpointDamaged("manifest.json and COMMIT do not fit each other: one was changed", where=where)
    manifest: dict[str, Any] = json.loads(manifest_bytes)
    records = []
    for rank, checksum in enumerate(manifest["records"]):
        data = _read(shelf, name, layout.record_name(rank))
        if layout.digest(data) != checksum:
            where = shelf.where(name, layout.record_name(rank))
            raise CheckpointDamaged("bytes differ from those written", where=where)
        records.append(RankRecord.from_bytes(data))
    return manifest, records


def in_order(files: Mapping[str, dict[str, int]]) -> list[tuple[str, dict[str, int]]]:
    """What a shelf lists, the oldest step first."""
    return sorted(files.items(), key=lambda named: layout.parse_name(named[0]) or (0, 0))


def _file_problem(shelf: Shelf, name: str, record: RankRecord) -> str:
    file = open_checked(shelf, name, record)
    try:
        file.check()
    except CheckpointDamaged as damage:
        return str(damage)
    finally:
        file.close()
    return ""


def _read(shelf: Shelf, name: str, file: str, when_missing: str = "is missing") -> bytes:
    try:
        return shelf.read(name, file)
    except FileNotFoundError:
        raise CheckpointDamaged(when_missing, where=shelf.where(name, file)) from None
    except OSError as error:
        raise CheckpointDamaged(f"cannot be read: {error.strerror}", where=shelf.where(name, file)) from error


def _look_at(shelf: Shelf, name: str, files: Mapping[str, int]) -> Found:
    step, generation = layout.parse_name(name) or (0, 0)
    found = Found(shelf.address(name), step, generation, size_bytes=sum(files.values()))
    try:
        manifest, records = read_outline(shelf, name)
    except CheckpointDamaged as damage:
        return found._replace(problem=str(damage))
    for record in records:
        if files.get(record.file) != record.size_bytes:
            where = shelf.where(name, record.file)
            return found._replace(problem=f"{where}: missing, or not of the size that was written")
    return found._replace(metrics=_metrics_of(manifest))


def _metrics_of(manifest: dict[str, Any]) -> dict[str, float]:
    """Earlier versions only kept the loss."""
    loss = manifest["validation_loss"]
    measured = [row for row in manifest.get("validations", ()) if row["step"] == manifest["step"]]
    return ({} if loss is None else {"loss": loss}) | (measured[-1] if measured else {})
