"""Which of many numbers are the same: what belongs to one source, unit, window or block is worked on together."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def parts(values: Ints) -> Iterator[tuple[int, Ints]]:
    """Each value, and where it stands."""
    if not values.size:
        return
    if (values == values[0]).all():
        yield int(values[0]), np.arange(values.size)
        return
    by_value = np.argsort(values, kind="stable")
    cuts = np.flatnonzero(np.diff(values[by_value])) + 1
    for begin, end in pairwise([0, *cuts.tolist(), values.size]):
        yield int(values[by_value[begin]]), by_value[begin:end]
