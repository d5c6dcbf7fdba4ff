"""A FragmentSource in memory: what all ranks extracted, or the values of a plain module."""

import torch
from torch import nn

from orchestrator.checkpoint.fragments import MASTER, VALUE, Fragment, Piece, RankState, TensorInfo, check_coverage


class MemorySource:
    """Whole states by (name, state)."""

    def __init__(
        self,
        values: dict[tuple[str, str], torch.Tensor],
        scalars: dict[str, dict[str, float]],
        engine: dict[str, float],
    ) -> None:
        self.values, self._scalars, self._engine = values, scalars, engine

    @classmethod
    def of_ranks(cls, ranks: list[RankState]) -> "MemorySource":
        """Put together what the ranks of one world extracted; every element must be there exactly once."""
        infos: dict[str, TensorInfo] = ranks[0].tensors
        fragments: list[Fragment] = [fragment for rank in ranks for fragment in rank.fragments]
        check_coverage(infos, [Piece(f.name, f.state, f.start, f.values.numel()) for f in fragments])
        values: dict[tuple[str, str], torch.Tensor] = {}
        for fragment in fragments:
            empty = torch.zeros(infos[fragment.name].numel, dtype=fragment.values.dtype)
            whole = values.setdefault((fragment.name, fragment.state), empty)
            whole[fragment.start : fragment.start + fragment.values.numel()] = fragment.values
        scalars = {name: numbers for rank in ranks for name, numbers in rank.scalars.items()}
        return cls(values, scalars, ranks[0].engine)

    @classmethod
    def of_module(cls, module: nn.Module) -> "MemorySource":
        """The state at step 0."""
        kept = module.state_dict().keys()
        values = {
            (name, MASTER if parameter.requires_grad else VALUE): parameter.detach().clone().view(-1)
            for name, parameter in module.named_parameters()
        }
        buffers = {name: buffer for name, buffer in module.named_buffers() if name in kept}
        values |= {(name, VALUE): buffer.clone().view(-1) for name, buffer in buffers.items()}
        return cls(values, {}, {})

    def without(self, name: str) -> "MemorySource":
        kept = {place: values for place, values in self.values.items() if place[0] != name}
        return MemorySource(kept, self._scalars, self._engine)

    def same_as(self, other: "MemorySource") -> bool:
        """Bit for bit."""
        rest = (self._scalars, self._engine, self.values.keys()) == (other._scalars, other._engine, other.values.keys())
        return rest and all(torch.equal(values, other.values[place]) for place, values in self.values.items())

    def states(self, name: str) -> tuple[str, ...]:
        return tuple(state for known, state in self.values if known == name)

    def read(self, name: str, state: str, start: int, count: int) -> torch.Tensor:
        return self.values[name, state][start : start + count]

    def scalars(self, name: str) -> dict[str, float]:
        return self._scalars.get(name, {})

    def engine(self) -> dict[str, float]:
        return self._engine
