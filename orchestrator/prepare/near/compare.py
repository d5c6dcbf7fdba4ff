"""How alike two documents are: by their sketches (quick, about right), by a shared key, by their shingles (exact).

Used by match.py, crowd.py and decide.py. Two documents are *candidates* if they have an equal key in some band and
their sketches do not say that they are too far apart: a relation of the two alone, whatever else is compared with
them."""

import numpy as np
from numpy.typing import NDArray

from orchestrator.prepare.near.compiled import compiled


@compiled
def sketches_agree(sketches: NDArray[np.uint8], one: int, other: int, least: int) -> bool:
    a, b = sketches[one], sketches[other]
    same = 0
    for i in range(a.size):  # so plain that it is compiled to instructions that compare many bytes at once
        same += a[i] == b[i]
    return same >= least


@compiled
def share_key(keys: NDArray[np.uint32], one: int, other: int) -> bool:
    """Key 0 says that a document takes no part in a band."""
    for band in range(keys.shape[1]):  # noqa: SIM110  # any() of a generator cannot be compiled
        if keys[one, band] == keys[other, band] and keys[one, band] != 0:
            return True
    return False


@compiled
def measure_similarity(flat: NDArray[np.uint64], ends: NDArray[np.int64], one: int, other: int) -> float:
    """Jaccard similarity: shingles in both over shingles in either. 0 if there are none."""
    i, i_end, j, j_end = ends[one], ends[one + 1], ends[other], ends[other + 1]
    sizes = (i_end - i) + (j_end - j)
    both = 0
    while i < i_end and j < j_end:  # no branch in here: which side moves cannot be foreseen
        x, y = flat[i], flat[j]
        both += x == y
        i += x <= y
        j += y <= x
    return both / (sizes - both) if sizes > 0 else 0.0
