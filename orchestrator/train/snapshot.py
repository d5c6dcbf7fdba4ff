"""Copies a rank's part of the state into a slot of the vault, which costs the step one copy. Used by saver.py."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch

from orchestrator.checkpoint.fragments import Fragment, RankState
from orchestrator.checkpoint.layout import CheckpointFacts, Placed, dtype_name
from orchestrator.checkpoint.part import Part, Shape, lay_out
from orchestrator.checkpoint.slot import Slot
from orchestrator.core.words import World


class Snapper:
    """Of one engine. What is found out for the first snapshot serves the next ones, as long as no memory moves."""

    def __init__(self, world: World, generation: int) -> None:
        self._world, self._generation = world, generation
        self._fragments: list[Fragment] | None = None  # those that the rest of this is about
        self._sheet = lay_out([])
        self._copies: list[tuple[torch.Tensor, int]] = []  # values, and the byte of the part where they begin
        self._tensors: dict[str, dict[str, Any]] = {}
        self._lasting: str | None = None

    def take(self, slot: Slot, state: RankState, step: int, facts: CheckpointFacts) -> None:
        """The slot is whole when this returns; the state may change then."""
        if state.fragments is not self._fragments:
            self._prepare(state)
        body = slot.begin(self._sheet.size_bytes)
        body[: len(self._sheet.header)] = self._sheet.header
        memory = torch.frombuffer(body, dtype=torch.uint8)
        into = [memory[begin : begin + values.nbytes].view(values.dtype) for values, begin in self._copies]
        if into:
            torch._foreach_copy_(into, [values for values, _ in self._copies])
        part = Part(
            step=step,
            generation=self._generation,
            rank=self._world.rank,
            world_size=self._world.size,
            size_bytes=self._sheet.size_bytes,
            fragments=self._sheet.fragments,
            scalars=state.scalars,
            tensors=self._tensors,
            engine=state.engine,
            facts=facts,
        )
        self._lasting = self._lasting or part.lasting_text()
        slot.finish(part, self._lasting)

    def _prepare(self, state: RankState) -> None:
        fragments = sorted(state.fragments, key=lambda fragment: -fragment.values.element_size())
        self._sheet = lay_out(shape_of(fragment) for fragment in fragments)
        self._copies = list(join_neighbours(fragments, self._sheet.fragments))
        self._tensors = {name: asdict(info) for name, info in state.tensors.items()}
        self._fragments, self._lasting = state.fragments, None


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
