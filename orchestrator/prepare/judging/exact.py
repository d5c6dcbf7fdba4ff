"""Samples that are the same: equal 128-bit hashes, of which the first stays. judge.py asks before it looks further."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]  # [n, 2]


def find_twins(earlier: Sequence[Hashes], own: Hashes) -> Ints:
    """For each own sample the first number with its hash, which may be its own. Numbers run on over all parts."""
    if not len(own):
        return np.empty(0, np.int64)
    numbers, met = _pick_met(earlier, own)
    first_own = sum(map(len, earlier))
    numbers = np.concatenate([numbers, np.arange(first_own, first_own + len(own))])
    hashes = np.concatenate([met, own])
    order = np.lexsort((numbers, hashes[:, 1], hashes[:, 0]))
    ordered = hashes[order]
    begins = np.ones(len(order), bool)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = np.empty(len(order), np.int64)
    first[order] = numbers[order][np.flatnonzero(begins)][np.cumsum(begins) - 1]
    return first[len(met) :]


def _pick_met(earlier: Sequence[Hashes], own: Hashes) -> tuple[Ints, Hashes]:
    """The earlier samples whose hash may be one of the own: few, so that only these are sorted."""
    high = np.sort(own[:, 0])
    numbers, met, first = [np.empty(0, np.int64)], [np.empty((0, 2), np.uint64)], 0
    for part in earlier:
        here = np.flatnonzero(high[np.searchsorted(high, part[:, 0]).clip(max=len(high) - 1)] == part[:, 0])
        numbers.append(here + first)
        met.append(part[here])
        first += len(part)
    return np.concatenate(numbers), np.concatenate(met)
