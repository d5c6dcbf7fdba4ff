"""Reads a checkpoint, whatever world and ZeRO stage wrote it: each rank only the byte ranges it now owns.

Nothing is believed before its checksum: COMMIT vouches for the manifest, the manifest for the records, a record for its
rank's file, which is checked as a whole before the first byte of it is used."""

import json
import os
from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
import xxhash

from orchestrator.checkpoint import layout
from orchestrator.checkpoint.fragments import TensorInfo
from orchestrator.checkpoint.layout import CheckpointFacts, Placed, RankRecord
from orchestrator.core.errors import CheckpointDamaged

_FACTS = ("zero_stage", "config_hash", "wandb_run_id", "validation_loss")


class Found(NamedTuple):
    """A committed checkpoint. `problem` is what a look at all but the rank files' bytes found wrong."""

    path: Path
    step: int
    generation: int
    validation_loss: float | None = None
    problem: str = ""


class CheckpointReader:
    """A FragmentSource over one checkpoint; made by `open_checkpoint`."""

    def __init__(self, path: Path, manifest: dict[str, Any], records: list[RankRecord]) -> None:
        self.path = path
        self.step: int = manifest["step"]
        self.generation: int = manifest["generation"]
        self.world_size: int = manifest["world_size"]
        self.facts = CheckpointFacts(
            **{name: manifest[name] for name in _FACTS},
            chain=tuple(manifest["chain"]),
            skips=tuple(manifest["skips"]),
        )
        self.tensors = {
            name: TensorInfo(**info | {"shape": tuple(info["shape"])}) for name, info in manifest["tensors"].items()
        }
        self._scalars: dict[str, dict[str, float]] = manifest["scalars"]
        self._engine: dict[str, float] = manifest["engine"]
        self._files = [_RankFile(path / record.file, record) for record in records]
        self._stretches = _index(records)

    def states(self, name: str) -> tuple[str, ...]:
        return tuple(self._stretches.get(name, {}))

    def read(self, name: str, state: str, start: int, count: int) -> torch.Tensor:
        """`count` elements of the flattened state from `start` on, 1-D on the CPU, put together from several files."""
        stretches = self._stretches.get(name, {}).get(state)
        if stretches is None:
            raise CheckpointDamaged(f"has no state {state!r} of tensor {name}", where=str(self.path))
        numel = self.tensors[name].numel
        if not 0 <= start <= start + count <= numel:
            raise ValueError(f"elements {start} to {start + count} of {name}, which has {numel}")
        out = torch.empty(count, dtype=getattr(torch, stretches[0].placed.dtype))
        into = out.view(torch.uint8).numpy().data
        size = out.element_size()
        for held in _overlapping(stretches, start, start + count):
            first = max(start, held.placed.start)
            last = min(start + count, held.placed.start + held.placed.numel)
            begin = held.placed.begin + (first - held.placed.start) * size
            self._files[held.file].read_into(into[(first - start) * size : (last - start) * size], begin)
        return out

    def scalars(self, name: str) -> dict[str, float]:
        return self._scalars.get(name, {})

    def engine(self) -> dict[str, float]:
        return self._engine

    def close(self) -> None:
        for file in self._files:
            file.close()


def open_checkpoint(path: Path) -> CheckpointReader:
    """Raises CheckpointDamaged, naming file and damage, when it is not a whole checkpoint."""
    manifest, records = _read_outline(path)
    return CheckpointReader(path, manifest, records)


def verify(path: Path) -> list[str]:
    """Everything that is wrong with a checkpoint, every byte looked at; several files at once."""
    try:
        _, records = _read_outline(path)
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


class _Stretch(NamedTuple):
    """A fragment and the rank file it lies in."""

    placed: Placed
    file: int


def _index(records: list[RankRecord]) -> dict[str, dict[str, list[_Stretch]]]:
    stretches: dict[str, dict[str, list[_Stretch]]] = {}
    for file, record in enumerate(records):
        for placed in record.fragments:
            stretches.setdefault(placed.name, {}).setdefault(placed.state, []).append(_Stretch(placed, file))
    for states in stretches.values():
        for held in states.values():
            held.sort(key=lambda stretch: (stretch.placed.start, stretch.placed.numel))
    return stretches


def _overlapping(stretches: list[_Stretch], start: int, end: int) -> Iterator[_Stretch]:
    """Those with elements in [start, end); the writer has made sure that together they hold all of it."""
    at = max(0, bisect_right(stretches, start, key=lambda stretch: stretch.placed.start) - 1)
    for stretch in stretches[at:]:
        if stretch.placed.start >= end:
            return
        yield stretch


class _RankFile:
    """One rank's safetensors file, opened and checked when it is first needed."""

    def __init__(self, path: Path, record: RankRecord) -> None:
        self._path, self._record = path, record
        self._handle: int | None = None

    def read_into(self, into: memoryview, begin: int) -> None:
        # Ranged reads, not mmap: a file that shrinks under a mapping kills the process with SIGBUS.
        if self._handle is None:
            self._handle = _open_checked(self._path, self._record)
        done = 0
        while done < len(into):
            count = os.preadv(self._handle, [into[done:]], begin + done)
            if count == 0:
                raise CheckpointDamaged(f"ends at byte {begin + done}", where=str(self._path))
            done += count

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _open_checked(path: Path, record: RankRecord) -> int:
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
    hasher = xxhash.xxh3_128()
    for begin in range(0, size_bytes, layout.CHUNK_BYTES):
        try:
            hasher.update(os.pread(handle, layout.CHUNK_BYTES, begin))
        except OSError as error:
            raise CheckpointDamaged(f"cannot be read at byte {begin}: {error.strerror}", where=str(path)) from error
    if hasher.hexdigest() != record.xxh3_128:
        raise CheckpointDamaged("bytes differ from those written: its xxh3-128 is another", where=str(path))


def _file_problem(path: Path, record: RankRecord) -> str:
    try:
        os.close(_open_checked(path / record.file, record))
    except CheckpointDamaged as damage:
        return str(damage)
    return ""


def _read_outline(path: Path) -> tuple[dict[str, Any], list[RankRecord]]:
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
        manifest, records = _read_outline(path)
    except CheckpointDamaged as damage:
        return Found(path, step, generation, problem=str(damage))
    for record in records:
        file = path / record.file
        if not file.exists() or file.stat().st_size != record.size_bytes:
            return Found(path, step, generation, problem=f"{file}: missing, or not of the size that was written")
    return Found(path, step, generation, manifest["validation_loss"])
