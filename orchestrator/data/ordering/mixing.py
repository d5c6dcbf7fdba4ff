"""Whose turn a position is: several sources share the positions of a run by integer quotas.

The shares are exact in every block. Comes before row.py, which says what a source gives when its turn comes."""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np

from orchestrator.core.errors import ConfigError
from orchestrator.core.keyed import Keys, key, permute
from orchestrator.data.ordering.parts import Ints, parts

BLOCK = 65_536  # positions in a block; the quotas of all sources sum to it


def quotas_of(weights: Sequence[float]) -> tuple[int, ...]:
    """Positions of each source in a block: largest remainder, exactly; a weight above zero gets at least one."""
    wanted = sum(weight > 0 for weight in weights)
    if not 0 < wanted <= BLOCK or not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise ConfigError(
            f"source weights {list(weights)} cannot be mixed",
            remedy=f"weights are zero or more, and from 1 to {BLOCK} of them are above zero",
        )
    total = sum(Fraction(weight) for weight in weights)
    exact = [Fraction(weight) * BLOCK / total for weight in weights]
    quotas = [max(int(share), 1) if share else 0 for share in exact]
    by_remainder = sorted(range(len(quotas)), key=lambda n: (quotas[n] - exact[n], n))
    for n in by_remainder[: max(0, BLOCK - sum(quotas))]:
        quotas[n] += 1
    while sum(quotas) > BLOCK:  # tiny sources were lifted to one: the largest pays
        quotas[quotas.index(max(quotas))] -= 1
    return tuple(quotas)


class Mixture:
    """The turns of the sources from position `start` on. `begun[s]` is where source s stands in its own row there."""

    def __init__(self, quotas: tuple[int, ...], mixture_key: Keys, start: int, begun: Ints) -> None:
        self.quotas, self.start, self.begun = quotas, start, begun
        self._key = mixture_key
        self._block = lru_cache(4)(self._lay_out_block)

    def choose_source(self, positions: Ints) -> tuple[Ints, Ints]:
        """For each position its source, and the index in that source's row."""
        source, index = np.empty_like(positions), np.empty_like(positions)
        blocks, places = np.divmod(positions - self.start, BLOCK)
        for block, here in parts(blocks):
            owner, earlier = self._block(block)
            source[here], index[here] = owner[places[here]], earlier[places[here]]
        return source, index + self.begun[source] + blocks * np.asarray(self.quotas)[source]

    def position_of(self, source: int, index: int) -> int:
        """The position that takes a place of a source's row: choose_source turned round."""
        block, turn = divmod(index - int(self.begun[source]), self.quotas[source])
        return self.start + block * BLOCK + int(np.flatnonzero(self._block(block)[0] == source)[turn])

    def row_places(self, position: int) -> Ints:
        """Where each source stands in its row when `position` comes next."""
        blocks, rest = divmod(position - self.start, BLOCK)
        turns = np.bincount(self._block(blocks)[0][:rest], minlength=len(self.quotas))
        return np.asarray(self.begun + blocks * np.asarray(self.quotas) + turns)

    def _lay_out_block(self, block: int) -> tuple[Ints, Ints]:
        """For each place of a block: the source, and how many places before it have the same one."""
        shuffled = permute(np.arange(BLOCK), BLOCK, key(self._key, self.start, block))
        source = np.searchsorted(np.cumsum(self.quotas), shuffled, side="right")
        earlier = np.empty(BLOCK, np.int64)
        for n, quota in enumerate(self.quotas):
            earlier[source == n] = np.arange(quota)
        return source, earlier
