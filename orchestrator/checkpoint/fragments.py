"""Fragments of named parameters: the form in which a model's state travels, whatever the world size and the ZeRO stage.

Comes after train/look.py, which cuts them out of DeepSpeed's flat tensors; before checkpoint/writer.py, which keeps
them, and whoever inserts them again reads them through a FragmentSource."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, NamedTuple, Protocol

import torch

from orchestrator.core.errors import CheckpointDamaged

MASTER = "fp32"  # the values of a trainable parameter; the optimizer's states carry the optimizer's own names beside it
VALUE = "value"  # the values of a frozen parameter or a buffer, in their own dtype


@dataclass(frozen=True, slots=True)
class Fragment:
    """A stretch of one state of one tensor, counted in elements of the flattened tensor."""

    name: str
    state: str
    start: int
    values: torch.Tensor  # 1-D, contiguous; on the CPU and a copy where it is not said otherwise


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a named tensor of the model is; `dtype` is torch's name without the prefix (bfloat16)."""

    shape: tuple[int, ...]
    dtype: str
    kind: Literal["trainable", "frozen", "buffer"]

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "TensorInfo":
        return cls(tuple(fields["shape"]), fields["dtype"], fields["kind"])


@dataclass
class RankState:
    """What one rank holds of the model and its optimizer. All ranks together hold every element exactly once."""

    fragments: list[Fragment]
    tensors: dict[str, TensorInfo]  # all tensors of the model, tied ones once, the same on every rank
    scalars: dict[str, dict[str, float]]  # by parameter held here, for example Adam's step
    engine: dict[str, float]  # state of the arithmetic, for example the loss scale; the same on every rank


class FragmentSource(Protocol):
    """Where an engine's state comes from: a checkpoint, a vault, or the initial weights."""

    def states(self, name: str) -> tuple[str, ...]:
        """Which states there are of a tensor; empty when the source has never heard of it."""
        ...

    def read(self, name: str, state: str, start: int, count: int) -> torch.Tensor:
        """`count` elements of the flattened state from `start` on, 1-D on the CPU."""
        ...

    def scalars(self, name: str) -> dict[str, float]: ...

    def engine(self) -> dict[str, float]: ...


class Piece(NamedTuple):
    """The place of a fragment without its values."""

    name: str
    state: str
    start: int
    numel: int


def check_coverage(infos: Mapping[str, TensorInfo], pieces: Iterable[Piece]) -> None:
    """Every element of every state must be there exactly once, and every tensor must have its values."""
    stretches: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for name, state, start, numel in pieces:
        stretches[name, state].append((start, numel))
    for name, info in infos.items():
        needed = MASTER if info.kind == "trainable" else VALUE
        if info.numel and (name, needed) not in stretches:
            raise CheckpointDamaged(f"no fragment of state {needed!r}", where=f"tensor {name}")
    for (name, state), held in stretches.items():
        if name not in infos:
            raise CheckpointDamaged("a fragment belongs to no tensor of the model", where=f"tensor {name}")
        _check_stretches(held, infos[name].numel, where=f"tensor {name}, state {state}")


def _check_stretches(held: list[tuple[int, int]], numel: int, where: str) -> None:
    reached = 0
    for start, count in sorted(held):
        if start != reached:
            missing = start > reached
            what = f"elements {reached} to {start} are missing" if missing else f"element {start} is there twice"
            raise CheckpointDamaged(what, where=where)
        reached = start + count
    if reached != numel:
        raise CheckpointDamaged(f"fragments reach element {reached} of {numel}", where=where)
