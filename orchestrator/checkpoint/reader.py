"""Reads a state that lies in parts, whatever world and ZeRO stage wrote it: each rank only the byte ranges it now owns.

The parts may be files of a checkpoint, checked chunk by chunk (chunks.py), or slots of vaults. found.py says which
checkpoints there are."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch

from orchestrator.checkpoint.chunks import ByteSource, RecentChunks
from orchestrator.checkpoint.found import open_checked, read_outline
from orchestrator.checkpoint.fragments import TensorInfo
from orchestrator.checkpoint.layout import CHUNK_BYTES, CheckpointFacts, Placed
from orchestrator.checkpoint.shelf import Address, shelf_of
from orchestrator.core.errors import CheckpointDamaged
from orchestrator.storage.stores import StoreSettings

READERS = 8  # threads: neither one disk nor one connection is kept busy by a single reader


class StateReader:
    """A FragmentSource over the parts of one step. `where` names it in messages."""

    def __init__(
        self,
        step: int,
        generation: int,
        world_size: int,
        facts: CheckpointFacts,
        tensors: Mapping[str, TensorInfo],
        scalars: Mapping[str, dict[str, float]],
        engine: dict[str, float],
        parts: Sequence[tuple[Sequence[Placed], ByteSource]],
        where: str = "",
    ) -> None:
        self.step, self.generation, self.world_size, self.facts = step, generation, world_size, facts
        self.tensors, self.where = tensors, where
        self._scalars, self._engine = scalars, engine
        self._sources = [source for _, source in parts]
        self._stretches = _index(parts)
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="read-state")

    def states(self, name: str) -> tuple[str, ...]:
        return tuple(self._stretches.get(name, {}))

    def read(self, name: str, state: str, start: int, count: int) -> torch.Tensor:
        """`count` elements of the flattened state from `start` on, 1-D on the CPU, put together from several parts."""
        stretches = self._stretches.get(name, {}).get(state)
        if stretches is None:
            raise CheckpointDamaged(f"has no state {state!r} of tensor {name}", where=self.where)
        numel = self.tensors[name].numel
        if not 0 <= start <= start + count <= numel:
            raise ValueError(f"elements {start} to {start + count} of {name}, which has {numel}")
        out = torch.empty(count, dtype=getattr(torch, stretches[0].placed.dtype))
        self._do_all([*_plan(stretches, start, out)])
        return out

    def scalars(self, name: str) -> dict[str, float]:
        return self._scalars.get(name, {})

    def engine(self) -> dict[str, float]:
        return self._engine

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)  # one that waits for a store ends behind
        for source in self._sources:
            source.close()

    def _do_all(self, reads: "Sequence[_Read]") -> None:
        if len(reads) == 1:
            reads[0].do()
        else:
            list(self._threads.map(_Read.do, reads))


def open_checkpoint(address: Address, settings: StoreSettings | None = None) -> StateReader:
    """Raises CheckpointDamaged, naming file and damage, when it is not a whole checkpoint."""
    shelf, name = shelf_of(address, settings)
    manifest, records = read_outline(shelf, name)
    recent = RecentChunks()
    parts = [(record.fragments, open_checked(shelf, name, record, recent)) for record in records]
    return StateReader(
        step=manifest["step"],
        generation=manifest["generation"],
        world_size=manifest["world_size"],
        facts=CheckpointFacts.from_json(manifest),
        tensors={name: TensorInfo.from_json(fields) for name, fields in manifest["tensors"].items()},
        scalars=manifest["scalars"],
        engine=manifest["engine"],
        parts=parts,
        where=str(address),
    )


class _Stretch(NamedTuple):
    """A fragment and the part it lies in."""

    placed: Placed
    source: ByteSource


class _Read(NamedTuple):
    """One piece of a read, in at most one chunk of a part."""

    source: ByteSource
    into: memoryview
    begin: int

    def do(self) -> None:
        self.source.read_into(self.into, self.begin)


def _index(parts: Sequence[tuple[Sequence[Placed], ByteSource]]) -> dict[str, dict[str, list[_Stretch]]]:
    stretches: dict[str, dict[str, list[_Stretch]]] = {}
    for fragments, source in parts:
        for placed in fragments:
            stretches.setdefault(placed.name, {}).setdefault(placed.state, []).append(_Stretch(placed, source))
    for states in stretches.values():
        for held in states.values():
            held.sort(key=lambda stretch: (stretch.placed.start, stretch.placed.numel))
    return stretches


def _plan(stretches: list[_Stretch], start: int, out: torch.Tensor) -> Iterator[_Read]:
    """What fills `out` with the elements from `start` on."""
    into, size, end = out.view(torch.uint8).numpy().data, out.element_size(), start + out.numel()
    for placed, source in _overlapping(stretches, start, end):
        first, last = max(start, placed.start), min(end, placed.start + placed.numel)
        begin, target = (
            placed.begin + (first - placed.start) * size,
            into[(first - start) * size : (last - start) * size],
        )
        while target:
            count = CHUNK_BYTES - begin % CHUNK_BYTES
            yield _Read(source, target[:count], begin)
            begin, target = begin + count, target[count:]


def _overlapping(stretches: list[_Stretch], start: int, end: int) -> Iterator[_Stretch]:
    """Those with elements in [start, end); the writer has made sure that together they hold all of it."""
    at = max(0, bisect_right(stretches, start, key=lambda stretch: stretch.placed.start) - 1)
    for stretch in stretches[at:]:
        if stretch.placed.start >= end:
            return
        yield stretch
