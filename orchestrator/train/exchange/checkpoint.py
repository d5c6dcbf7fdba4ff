"""Makes a checkpoint of any source of fragments, a stretch at a time: the model need not fit into memory.

For states that come from elsewhere; a run's own are written from its slots (checkpoint/writer.py)."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
import xxhash

from orchestrator.checkpoint import layout
from orchestrator.checkpoint.fragments import FragmentSource, TensorInfo
from orchestrator.checkpoint.layout import CHUNK_BYTES, CheckpointFacts, RankRecord
from orchestrator.checkpoint.part import Part, Shape, lay_out
from orchestrator.checkpoint.writer import commit
from orchestrator.storage.publish import publish_bytes
from orchestrator.train.reshard import cut_row

PART_BYTES = 2**32  # of a file, about: several are read and checked at once
STRETCH = 2**22  # elements


def write_checkpoint(
    folder: Path,
    source: FragmentSource,
    tensors: Mapping[str, TensorInfo],
    facts: CheckpointFacts,
    *,
    step: int,
    generation: int,
    part_bytes: int = PART_BYTES,
) -> Path:
    """`folder` holds checkpoints; the new one, committed."""
    shapes = _list_shapes(source, tensors)
    size_bytes = sum(shape.numel * layout.ELEMENT_BYTES[shape.dtype] for shape in shapes)
    size = 1 + size_bytes // part_bytes
    path = folder / layout.checkpoint_name(step, generation)
    path.mkdir(parents=True)
    for rank in range(size):
        shares = cut_row({name: info.numel for name, info in tensors.items()}, rank, size)
        held = [shape._replace(start=shares[shape.name][0], numel=shares[shape.name][1]) for shape in shapes]
        sheet = lay_out(shape for shape in held if shape.numel)
        part = Part(
            step=step,
            generation=generation,
            rank=rank,
            world_size=size,
            size_bytes=sheet.size_bytes,
            fragments=sheet.fragments,
            scalars={name: source.scalars(name) for name in {placed.name for placed in sheet.fragments}},
            tensors={name: asdict(info) for name, info in tensors.items()},
            engine=source.engine(),
            facts=facts,
        )
        _write_part(path, part, sheet.header, source)
    return commit(folder, part)[0]


def _list_shapes(source: FragmentSource, tensors: Mapping[str, TensorInfo]) -> list[Shape]:
    """Every state whole, the widest elements first."""
    shapes = []
    for name, info in tensors.items():
        for state in source.states(name) if info.numel else ():
            dtype = layout.dtype_name(source.read(name, state, 0, 0).dtype)
            shapes.append(Shape(name, state, 0, info.numel, dtype))
    return sorted(shapes, key=lambda shape: -layout.ELEMENT_BYTES[shape.dtype])


def _write_part(path: Path, part: Part, header: bytes, source: FragmentSource) -> None:
    """One file and its record, on disk when this returns."""
    name = layout.data_name(part.rank)
    file = _HashedFile(path / name)
    file.write(memoryview(header))
    for placed in part.fragments:
        for start in range(placed.start, placed.start + placed.numel, STRETCH):
            count = min(STRETCH, placed.start + placed.numel - start)
            values = source.read(placed.name, placed.state, start, count).contiguous()
            file.write(values.view(torch.uint8).numpy().data)
    record = RankRecord(
        file=name, size_bytes=part.size_bytes, chunks=file.close(), scalars=part.scalars, fragments=part.fragments
    )
    publish_bytes(path / layout.record_name(part.rank), record.to_bytes())


class _HashedFile:
    """Takes the checksum of every chunk while it is written."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._hasher, self._room = xxhash.xxh3_128(), CHUNK_BYTES
        self._chunks: list[str] = []

    def write(self, data: memoryview) -> None:
        self._file.write(data)
        while len(data):
            taken = data[: self._room]
            self._hasher.update(taken)
            self._room -= len(taken)
            if not self._room:
                self._end_chunk()
            data = data[len(taken) :]

    def close(self) -> tuple[str, ...]:
        """The checksums; all of it is on disk."""
        if self._room < CHUNK_BYTES:
            self._end_chunk()
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        return tuple(self._chunks)

    def _end_chunk(self) -> None:
        self._chunks.append(self._hasher.hexdigest())
        self._hasher, self._room = xxhash.xxh3_128(), CHUNK_BYTES
