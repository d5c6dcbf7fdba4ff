"""Which checkpoints there are and whether they are whole. Needs no torch: the controller asks, too.

Nothing is believed before its checksum: COMMIT vouches for the manifest, the manifest for the records, a record for its
rank's file, which is checked as a whole before the first byte of it is used (reader.py)."""

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import xxhash

from orchestrator.checkpoint import layout
from orchestrator.checkpoint.layout import RankRecord
from orchestrator.core.errors import CheckpointDamaged


class Found(NamedTuple):
    """A committed checkpoint. `problem` is what a look at all but the rank files' bytes found wrong."""

    path: Path
    step: int
    generation: int
    metrics: Mapping[str, float] = MappingProxyType({})  # of the validation of its step; empty when there was none
    problem: str = ""


def verify(path: Path) -> list[str]:
    """Everything that is wrong with a checkpoint, every byte looked at; several files at once."""
    try:
        _, records = read_outline(path)
    except CheckpointDamaged as damage:
        return [str(damage)]
    with ThreadPoolExecutor(max_workers=min(8, len(records))) as pool:
        return [problem for problem in pool.map(lambda record: _file_problem(path, record), records) if problem]


def list_checkpoints(folder: Path) -> list[Found]:
    """Committed checkpoints, newest last."""
    return [
        _look_at(path, step, generation)
        for path, step, generation in layout.checkpoint_folders(folder)
        if (path / layout.COMMIT).exists()
    ]


def newest_sound(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole, and what is wrong with every newer one."""
    problems: list[str] = []
    for path, _, _ in reversed(layout.checkpoint_folders(folder)):
        found = verify(path)
        if not found:
            return path, problems
        problems += found
    return None, problems


def open_checked(path: Path, record: RankRecord) -> int:
    """A handle of a file whose size and checksum are right."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise CheckpointDamaged(f"cannot be opened: {error.strerror}", where=str(path)) from error
    try:
        _check_content(handle, path, record)
    except CheckpointDamaged:
        os.close(handle)
        raise
    return handle


def _check_content(handle: int, path: Path, record: RankRecord) -> None:
    size_bytes = os.fstat(handle).st_size
    if size_bytes != record.size_bytes:
        raise CheckpointDamaged(f"has {size_bytes} bytes, {record.size_bytes} were written", where=str(path))
    hasher, chunks = xxhash.xxh3_128(), []
    for begin in range(0, size_bytes, layout.CHUNK_BYTES):
        try:
            chunk = os.pread(handle, layout.CHUNK_BYTES, begin)
        except OSError as error:
            raise CheckpointDamaged(f"cannot be read at byte {begin}: {error.strerror}", where=str(path)) from error
        if record.chunks:
            chunks.append(xxhash.xxh3_128_hexdigest(chunk))
        else:
            hasher.update(chunk)
    if record.chunks != tuple(chunks) or (not record.chunks and hasher.hexdigest() != record.xxh3_128):
        raise CheckpointDamaged("bytes differ from those written: its xxh3-128 is another", where=str(path))


def _file_problem(path: Path, record: RankRecord) -> str:
    try:
        os.close(open_checked(path / record.file, record))
    except CheckpointDamaged as damage:
        return str(damage)
    return ""


def read_outline(path: Path) -> tuple[dict[str, Any], list[RankRecord]]:
    """Manifest and records, checked against COMMIT."""
    commit = _read(path / layout.COMMIT, "is missing: the checkpoint was never finished")
    manifest_bytes = _read(path / layout.MANIFEST)
    if commit != layout.commit_bytes(manifest_bytes):
        raise CheckpointDamaged("manifest.json and COMMIT do not fit each other: one was changed", where=str(path))
    manifest: dict[str, Any] = json.loads(manifest_bytes)
    records = []
    for rank, checksum in enumerate(manifest["records"]):
        data = _read(path / layout.record_name(rank))
        if layout.digest(data) != checksum:
            raise CheckpointDamaged("bytes differ from those written", where=str(path / layout.record_name(rank)))
        records.append(RankRecord.from_bytes(data))
    return manifest, records


def _read(path: Path, when_missing: str = "is missing") -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointDamaged(when_missing, where=str(path)) from None
    except OSError as error:
        raise CheckpointDamaged(f"cannot be read: {error.strerror}", where=str(path)) from error


def _look_at(path: Path, step: int, generation: int) -> Found:
    try:
        manifest, records = read_outline(path)
    except CheckpointDamaged as damage:
        return Found(path, step, generation, problem=str(damage))
    for record in records:
        file = path / record.file
        if not file.exists() or file.stat().st_size != record.size_bytes:
            return Found(path, step, generation, problem=f"{file}: missing, or not of the size that was written")
    return Found(path, step, generation, _metrics_of(manifest))


def _metrics_of(manifest: dict[str, Any]) -> dict[str, float]:
    """Earlier versions only kept the loss."""
    loss = manifest["validation_loss"]
    measured = [row for row in manifest.get("validations", ()) if row["step"] == manifest["step"]]
    return ({} if loss is None else {"loss": loss}) | (measured[-1] if measured else {})
