"""Copies a rank's part of the state into a slot of the vault, which costs the step one copy. Used by saver.py.

From a GPU the copy goes on beside the next forward pass: hold_update before the next update, finish after it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch

from orchestrator.checkpoint.fragments import Fragment, RankState
from orchestrator.checkpoint.layout import CheckpointFacts, Placed, dtype_name
from orchestrator.checkpoint.part import Part, Shape, lay_out
from orchestrator.checkpoint.slot import Slot
from orchestrator.core.words import World
from orchestrator.train.copier import Copier, Piece


class Snapper:
    """Of one engine. What is found out for the first snapshot serves the next ones, as long as no memory moves."""

    def __init__(self, world: World, generation: int) -> None:
        self._world, self._generation = world, generation
        self._fragments: list[Fragment] | None = None  # those that the rest of this is about
        self._sheet = lay_out([])
        self._pieces: list[Piece] = []
        self._tensors: dict[str, dict[str, Any]] = {}
        self._lasting: str | None = None
        self._copier = Copier()
        self._end: Callable[[], None] | None = None  # of the snapshot that is being copied

    def take(self, slot: Slot, state: RankState, step: int, facts: CheckpointFacts) -> None:
        """Begin to fill the slot. It is whole when this returns, unless is_copying says otherwise."""
        if state.fragments is not self._fragments:
            self._prepare(state)
        body = slot.begin(self._sheet.size_bytes)
        body[: len(self._sheet.header)] = self._sheet.header
        self._copier.copy(slot.path, torch.frombuffer(body, dtype=torch.uint8), self._pieces)
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
        lasting = self._lasting
        self._end = lambda: slot.finish(part, lasting)
        if not self._copier.is_busy:
            self.finish()

    @property
    def is_copying(self) -> bool:
        """Until finish."""
        return self._end is not None

    def hold_update(self) -> None:
        """An update that is begun after this changes nothing before it is copied."""
        self._copier.hold_back()

    def finish(self) -> None:
        """Wait for the copy; the slot is whole when this returns."""
        if self._end is not None:
            self._copier.wait()
            self._end()
            self._end = None

    def close(self) -> None:
        """A snapshot that is still being copied is not finished."""
        self._copier.close()

    def _prepare(self, state: RankState) -> None:
        """Widest elements first, so that all are aligned."""
        fragments = sorted(state.fragments, key=lambda fragment: -fragment.values.element_size())
        self._sheet = lay_out(shape_of(fragment) for fragment in fragments)
        buffers = {name for name, info in state.tensors.items() if info.kind == "buffer"}
        self._pieces = list(join_neighbours(fragments, self._sheet.fragments, buffers))
        self._tensors = {name: asdict(info) for name, info in state.tensors.items()}
        self._fragments, self._lasting = state.fragments, None


def shape_of(fragment: Fragment) -> Shape:
    values = fragment.values
    return Shape(fragment.name, fragment.state, fragment.start, values.numel(), dtype_name(values.dtype))


def join_neighbours(fragments: Sequence[Fragment], placed: Sequence[Placed], buffers: set[str]) -> Iterator[Piece]:
    """What lies side by side both in the engine and in the part is copied at once."""
    held: Piece | None = None
    for fragment, place in zip(fragments, placed, strict=True):
        values, is_buffer = fragment.values, fragment.name in buffers
        if held is not None and _follows(held, values, place.begin):
            joined = held.values.as_strided((held.values.numel() + values.numel(),), (1,))
            held = held._replace(values=joined)
        else:
            if held is not None:
                yield held
            held = Piece(values, place.begin, is_buffer)
    if held is not None:
        yield held


def _follows(held: Piece, values: torch.Tensor, begin: int) -> bool:
    return (
        held.begin + held.values.nbytes == begin
        and held.values.dtype == values.dtype
        and held.values.untyped_storage().data_ptr() == values.untyped_storage().data_ptr()
        and held.values.storage_offset() + held.values.numel() == values.storage_offset()
    )
