"""How often to take a snapshot: as stated, or so that snapshots cost less than a hundredth of the time. For saver.py.

Ranks must agree on every one, so what is learned are sums over all ranks."""

import math
from collections import deque
from statistics import median
from typing import Literal

SHARE = 0.01  # of the time of the steps
REMEMBERED = 20  # steps


class Cadence:
    """The first one is due after one step: only then is it known what they cost."""

    def __init__(self, every: int | Literal["auto"] | None, first_step: int) -> None:
        self._every, self._last = every, first_step
        self._step_s: deque[float] = deque(maxlen=REMEMBERED)
        self._cost_s = 0.0  # of the last one; 0: not known

    def is_due(self, step: int) -> bool:
        return self._every is not None and step - self._last >= self.every

    @property
    def every(self) -> int:
        if isinstance(self._every, int):
            return self._every
        if not self._step_s:
            return 1
        return max(1, math.ceil(self._cost_s / (SHARE * median(self._step_s))))

    def note(self, step: int) -> None:
        """One has been taken."""
        self._last = step

    def learn(self, step_s: float, cost_s: float) -> None:
        """What a step took, and what the last snapshot cost, 0 while that is not known."""
        self._step_s.append(step_s)
        self._cost_s = cost_s
