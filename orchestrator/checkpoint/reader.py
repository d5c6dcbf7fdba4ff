"""Reads a checkpoint, whatever world and ZeRO stage wrote it: each rank only the byte ranges it now owns.

found.py says which checkpoints there are; every file is checked as a whole before the first byte of it is used."""

import os
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from orchestrator.checkpoint.found import open_checked, read_outline
from orchestrator.checkpoint.fragments import TensorInfo
from orchestrator.checkpoint.layout import CheckpointFacts, Placed, RankRecord
from orchestrator.core.errors import CheckpointDamaged


class CheckpointReader:
    """A FragmentSource over one checkpoint; made by `open_checkpoint`."""

    def __init__(self, path: Path, manifest: dict[str, Any], records: list[RankRecord]) -> None:
        self.path = path
        self.step: int = manifest["step"]
        self.generation: int = manifest["generation"]
        self.world_size: int = manifest["world_size"]
        self.facts = CheckpointFacts.from_json(manifest)
        self.tensors = {name: TensorInfo.from_json(fields) for name, fields in manifest["tensors"].items()}
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
    manifest, records = read_outline(path)
    return CheckpointReader(path, manifest, records)


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
            self._handle = open_checked(self._path, self._record)
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
