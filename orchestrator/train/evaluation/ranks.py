"""What metrics ask of the world: to put together what its ranks have counted and seen. Tests put one rank here."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from orchestrator.train.agreement import add_over_ranks, gather_over_ranks


class Ranks(NamedTuple):
    """On the CPU, by the world's own agreement group: NCCL takes no part. Every rank calls them alike."""

    add: Callable[[Tensor], Tensor] = add_over_ranks  # tensors of one shape, whose sum is exact
    gather: Callable[[Tensor], Tensor] = gather_over_ranks  # any number of rows


ALONE = Ranks(add=lambda values: values, gather=lambda rows: rows)
