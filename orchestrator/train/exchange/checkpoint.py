"""Makes a checkpoint of any source of fragments, a stretch at a time: the model need not fit into memory.

For states that come from elsewhere; a run's own are written from its slots (checkpoint/writer.py)."""

from collections.abc import Mapping
from dataclasses import asdict

import torch
import xxhash

from orchestrator.checkpoint import layout
from orchestrator.checkpoint.fragments import FragmentSource, TensorInfo
from orchestrator.checkpoint.layout import CHUNK_BYTES, CheckpointFacts, Placed, RankRecord
from orchestrator.checkpoint.part import Part, Shape, lay_out
from orchestrator.checkpoint.shelf import Address, Shelf
from orchestrator.checkpoint.writer import commit
from orchestrator.train.look import cut_row

PART_BYTES = 2**32  # of a file, about: several are read and checked at once


def write_checkpoint(
    shelf: Shelf,
    source: FragmentSource,
    tensors: Mapping[str, TensorInfo],
    facts: CheckpointFacts,
    *,
    step: int,
    generation: int,
    part_bytes: int = PART_BYTES,
) -> Address:
    """Where it is, committed."""
    shapes = _list_shapes(source, tensors)
    size_bytes = sum(shape.numel * layout.ELEMENT_BYTES[shape.dtype] for shape in shapes)
    size = 1 + size_bytes // part_bytes
    name = layout.checkpoint_name(step, generation)
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
        _write_part(shelf, name, part, sheet.header, source)
    return commit(shelf, part)[0]


def _list_shapes(source: FragmentSource, tensors: Mapping[str, TensorInfo]) -> list[Shape]:
    """Every state whole, the widest elements first."""
    shapes = []
    for name, info in tensors.items():
        for state in source.states(name) if info.numel else ():
            dtype = layout.dtype_name(source.read(name, state, 0, 0).dtype)
            shapes.append(Shape(name, state, 0, info.numel, dtype))
    return sorted(shapes, key=lambda shape: -layout.ELEMENT_BYTES[shape.dtype])


def _write_part(shelf: Shelf, name: str, part: Part, header: bytes, source: FragmentSource) -> None:
    """One file and its record, durable when this returns."""
    file, made = layout.data_name(part.rank), _PartBytes(header, part, source)
    shelf.write(name, file, part.size_bytes, made.piece)
    record = RankRecord(
        file=file,
        size_bytes=part.size_bytes,
        chunks=tuple(made.checks),
        scalars=part.scalars,
        fragments=part.fragments,
    )
    shelf.publish(name, layout.record_name(part.rank), record.to_bytes())


class _PartBytes:
    """The bytes of a part, made when they are asked for; takes the checksum of every chunk on the way."""

    def __init__(self, header: bytes, part: Part, source: FragmentSource) -> None:
        self._header, self._fragments, self._source = header, part.fragments, source
        self.checks = [""] * -(-part.size_bytes // CHUNK_BYTES)

    def piece(self, begin: int, end: int) -> memoryview:
        """`begin` is that of a chunk, and `end` too, or that of the part."""
        out = memoryview(bytearray(end - begin))
        head = self._header[begin:end]
        out[: len(head)] = head
        for placed in self._fragments:
            self._copy(placed, out, begin)
        for at in range(0, len(out), CHUNK_BYTES):
            self.checks[(begin + at) // CHUNK_BYTES] = xxhash.xxh3_128_hexdigest(out[at : at + CHUNK_BYTES])
        return out

    def _copy(self, placed: Placed, out: memoryview, begin: int) -> None:
        """What of a fragment lies in `out`. All elements are aligned, so chunks never cut one in two."""
        size = layout.ELEMENT_BYTES[placed.dtype]
        first = max(placed.begin, begin)
        last = min(placed.begin + placed.numel * size, begin + len(out))
        if first >= last:
            return
        start = placed.start + (first - placed.begin) // size
        values = self._source.read(placed.name, placed.state, start, (last - first) // size)
        out[first - begin : last - begin] = values.contiguous().view(torch.uint8).numpy().data
