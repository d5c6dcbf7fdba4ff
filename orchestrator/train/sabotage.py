"""Losses made wrong on purpose, as the drill of a run says. Called by loop.py before every backward pass."""

import math
from collections import Counter

from orchestrator.core.drill import Drill

FACTORS = {"nan": math.nan, "spike": 1000.0}


class Sabotage:
    """Of one rank. Without a drill it does nothing."""

    def __init__(self, drill: Drill, rank: int) -> None:
        self._wrong = [wrong for wrong in drill.wrong if wrong.rank == rank]
        self._attempts: Counter[int] = Counter()  # by step

    def begin_attempt(self, step: int) -> float:
        """What all losses of this attempt at the step are to be multiplied by."""
        self._attempts[step] += 1
        hits = [one for one in self._wrong if one.step == step and (not one.times or self._attempts[step] <= one.times)]
        return math.prod(FACTORS[one.kind] for one in hits)
