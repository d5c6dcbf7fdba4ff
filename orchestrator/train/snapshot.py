"""Copies a rank's part of the state into a slot of the vault, which costs the step one copy. Used by saver.py."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import torch

from orchestrator.checkpoint.fragments import Fragment, RankState
from orchestrator.checkpoint.layout import CheckpointFacts, Placed, dtype_name
from orchestrator.checkpoint.part import Part, Shape, Sheet, lay_out
from orchestrator.checkpoint.slot import Slot
from orchestrator.core.words import World


class Snapper:
    """Of one engine."""

    def __init__(self, world: World, generation: int) -> None:
        self._world, self._generation = world, generation
        self._shapes: list[Shape] = []
        self._sheet = lay_out([])  # of the last snapshot: the next one has the same shapes, but for the very first

    def take(self, slot: Slot, state: RankState, step: int, facts: CheckpointFacts) -> None:
        """The slot is whole when this returns; the state may change then."""
        fragments = sorted(state.fragments, key=lambda fragment: -fragment.values.element_size())
        sheet = self._lay_out([shape_of(fragment) for fragment in fragments])
        body = slot.begin(sheet.size_bytes)
        body[: len(sheet.header)] = sheet.header
        memory = torch.frombuffer(body, dtype=torch.uint8)
        for values, begin in join_neighbours(fragments, sheet.fragments):
            memory[begin : begin + values.nbytes].view(values.dtype).copy_(values)
        slot.finish(
            Part(
                step=step,
                generation=self._generation,
                rank=self._world.rank,
                world_size=self._world.size,
                size_bytes=sheet.size_bytes,
                fragments=sheet.fragments,
                scalars=state.scalars,
                tensors={name: asdict(info) for name, info in state.tensors.items()},
                engine=state.engine,
                facts=facts,
            )
        )

    def _lay_out(self, shapes: list[Shape]) -> Sheet:
        if shapes != self._shapes:
            self._shapes, self._sheet = shapes, lay_out(shapes)
        return self._sheet


def shape_of(fragment: Fragment) -> Shape:
    values = fragment.values
    return Shape(fragment.name, fragment.state, fragment.start, values.numel(), dtype_name(values.dtype))


def join_neighbours(fragments: Sequence[Fragment], placed: Sequence[Placed]) -> Iterator[tuple[torch.Tensor, int]]:
    """What lies side by side both in the engine and in the part is copied at once: (values, first byte in the part)."""
    held: torch.Tensor | None = None
    begin = 0
    for fragment, place in zip(fragments, placed, strict=True):
        values = fragment.values
        if held is not None and begin + held.nbytes == place.begin and _follows(held, values):
            held = held.as_strided((held.numel() + values.numel(),), (1,))
        else:
            if held is not None:
                yield held, begin
            held, begin = values, place.begin
    if held is not None:
        yield held, begin


def _follows(held: torch.Tensor, values: torch.Tensor) -> bool:
    return (
        held.dtype == values.dtype
        and held.untyped_storage().data_ptr() == values.untyped_storage().data_ptr()
        and held.storage_offset() + held.numel() == values.storage_offset()
    )
