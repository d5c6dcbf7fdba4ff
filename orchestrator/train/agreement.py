"""What the ranks of a world tell each other on the CPU: a few numbers a step, rows of a validation, rare news.

The group is made by engine.py with its world. All of these are collective: every rank calls them, in the same order."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch

_Told = TypeVar("_Told")
_agreement: list[torch.distributed.ProcessGroup] = []  # the gloo group of this process's world; empty outside a world


def use_group(group: torch.distributed.ProcessGroup | None) -> None:
    """Of the world that has been joined; None when it is left."""
    _agreement[:] = [] if group is None else [group]


def sum_over_ranks(values: Sequence[float]) -> list[float]:
    """Add up numbers over all ranks in one float64 all-reduce."""
    return [float(number) for number in add_over_ranks(torch.tensor(values, dtype=torch.float64))]


def add_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The sum of all ranks' tensors of one shape."""
    total = values.clone()
    torch.distributed.all_reduce(total, group=_agreement[0])
    return total


def gather_over_ranks(rows: torch.Tensor) -> torch.Tensor:
    """The rows of all ranks, in the order of the ranks; a rank may have any number of them, or none."""
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    counts = [round(count) for count in sum_over_ranks([len(rows) * (rank == other) for other in range(size)])]
    if not max(counts):
        return rows
    padded = rows.new_zeros((max(counts), *rows.shape[1:]))
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in counts]
    torch.distributed.all_gather(gathered, padded, group=_agreement[0])
    return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])


def max_over_ranks(value: float) -> float:
    largest = torch.tensor(value, dtype=torch.float64)
    torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX, group=_agreement[0])
    return float(largest)


def gather_everywhere(value: _Told) -> list[_Told]:
    """What every rank has, in the order of the ranks. For news that is rare."""
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, value, group=_agreement[0])
    return gathered
