"""Candidates of one band: pairs of documents with an equal key whose sketches agree.

Comes after sign.py; merge.py puts the bands together. Documents stand on one number line: the kept ones of earlier
segments first, then the segment's own from `own` on, so that of any two the earlier one has the smaller number.
Groups whose pairs would be too many to look at are handed on whole (crowd.py). That costs or saves time; no verdict
depends on it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.prepare.near.bands import least_equal
from orchestrator.prepare.near.compare import sketches_agree
from orchestrator.prepare.near.compiled import compiled, enlarge
from orchestrator.prepare.near.kernels import read_only

LINE_END = 1 << 32  # the number line has so many places
NUMBER = np.uint64(0xFFFFFFFF)  # the lower half of a packed pair, or of a key with its number
UPPER = np.uint64(32)


class Limits(NamedTuple):
    """What is done in which way; no verdict depends on it. Beyond `estimates` and `pairs` a group is a crowd."""

    estimates: int = 1024  # pairs a member of a group whose sketches are compared: about 10 ns each
    pairs: int = 32  # pairs a member of a group that may go on to exact checks: about a microsecond each
    documents: int = 8192  # whose sets are in memory at a time: about 50 MB for pages of 800 shingles


LIMITS = Limits()


class Sketched(NamedTuple):
    """What two documents are estimated by: `least` of their bytes have to agree."""

    sketches: NDArray[np.uint8]
    rows: NDArray[np.int64]
    least: int


class Matches(NamedTuple):
    """What one band says. A pair is `later << 32 | earlier`."""

    pairs: NDArray[np.uint64]
    crowded: NDArray[np.uint32]  # members of crowds, one crowd after another, ascending within each
    crowd_ends: NDArray[np.int64]  # crowd c is crowded[crowd_ends[c]:crowd_ends[c + 1]]; the first is 0
    candidates: int  # pairs with an equal key, those inside crowds left out
    estimated: int  # of them, how often two sketches were compared


def sort_keys(keys: NDArray[np.uint32], first: int) -> NDArray[np.uint64]:
    """A band's keys of documents `first`, `first + 1`, ... as `key << 32 | number`, sorted; those with key 0 left
    out."""
    if first + len(keys) > LINE_END:
        raise ValueError(f"document {first + len(keys) - 1} is beyond the number line, which ends at 2^32")
    rows = np.flatnonzero(keys)
    packed = keys[rows].astype(np.uint64) << UPPER | (rows + first).astype(np.uint64)
    packed.sort()
    return packed


def keys_of_sketch(sketch: NDArray[np.uint8], bands: int, rows: int) -> NDArray[np.uint32]:
    """[n, bands] keys of `rows` sketch bytes each (at most 3), for thresholds lower than those the keys were made
    for."""
    if rows > 3 or bands * rows > sketch.shape[1]:
        raise ValueError(f"{bands} bands of {rows} bytes do not fit into a key each and a sketch of {sketch.shape[1]}")
    parts = sketch[:, : bands * rows].reshape(len(sketch), bands, rows).astype(np.uint32)
    weights = np.uint32(256) ** np.arange(rows, dtype=np.uint32)
    keys: NDArray[np.uint32] = (parts * weights).sum(axis=2, dtype=np.uint32) + np.uint32(1)
    keys[~sketch.any(axis=1)] = 0  # an exempt document
    return keys


def match_band(
    own_keys: NDArray[np.uint64],
    earlier_keys: Sequence[NDArray[np.uint64]],
    own: int,
    sketches: NDArray[np.uint8],
    threshold: float,
    *,
    rows: NDArray[np.int64] | None = None,
    among_own: bool = True,
    limits: Limits = LIMITS,
) -> Matches:
    """`own_keys` and each of `earlier_keys` (a part for every earlier segment, say) as sort_keys gives them;
    `sketches` of the whole number line, each in the row of its number unless `rows` tells the rows by number. Not
    `among_own`: only pairs of an own document and an earlier one."""
    if len(own_keys) == 0:
        return Matches(np.empty(0, np.uint64), np.empty(0, np.uint32), np.zeros(1, np.int64), 0, 0)
    met = [part for part in (_pick_met(read_only(part), read_only(own_keys)) for part in earlier_keys) if len(part)]
    line = np.sort(np.concatenate([*met, own_keys])) if met else own_keys
    rows = np.arange(len(sketches)) if rows is None else rows
    sketched = Sketched(read_only(sketches), read_only(rows), least_equal(threshold, sketches.shape[1]))
    pairs, crowds, candidates, estimated = _match_groups(read_only(line), own, among_own, sketched, limits)
    crowded = [(line[begin:end] & NUMBER).astype(np.uint32) for begin, end in crowds]
    ends = np.cumsum([0, *(len(crowd) for crowd in crowded)], dtype=np.int64)
    return Matches(pairs, np.concatenate([np.empty(0, np.uint32), *crowded]), ends, candidates, estimated)


@compiled
def _pick_met(part: NDArray[np.uint64], own_keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Those of a part whose key is one of the own."""
    picked = np.empty(part.size, np.uint64)
    count, j = 0, 0
    for i in range(part.size):
        key = part[i] >> UPPER
        while j < own_keys.size and own_keys[j] >> UPPER < key:
            j += 1
        if j == own_keys.size:
            break
        if own_keys[j] >> UPPER == key:
            picked[count] = part[i]
            count += 1
    return picked[:count].copy()


@compiled
def _match_groups(
    line: NDArray[np.uint64], own: int, among_own: bool, sketched: Sketched, limits: Limits
) -> tuple[NDArray[np.uint64], NDArray[np.int64], int, int]:
    """Pairs, [crowds, 2] places of crowds in the line, pairs with an equal key, comparisons of sketches."""
    pairs, found = np.empty(1024, np.uint64), 0
    crowds, crowd_count = np.empty((16, 2), np.int64), 0
    candidates, estimated = 0, 0
    begin = 0
    while begin < line.size:
        key = line[begin] >> UPPER
        middle = begin  # where the own ones begin
        while middle < line.size and line[middle] >> UPPER == key and line[middle] & NUMBER < own:
            middle += 1
        end = middle
        while end < line.size and line[end] >> UPPER == key:
            end += 1
        count = (end - middle) * (middle - begin)
        if among_own:
            count += (end - middle) * (end - middle - 1) // 2
        crowd = count > limits.estimates * (end - begin)
        if count > 0 and not crowd:
            room = min(count, limits.pairs * (end - begin))
            if found + room > pairs.size:
                pairs = enlarge(pairs, 2 * pairs.size + room)
            into = pairs[found : found + room]
            fresh, compared = _pair_group(line[begin:end], middle - begin, among_own, sketched, into)
            estimated += compared
            crowd = fresh < 0
            if not crowd:
                found += fresh
                candidates += count
        if crowd:
            if crowd_count == len(crowds):
                crowds = enlarge(crowds, 2 * crowd_count)
            crowds[crowd_count, 0], crowds[crowd_count, 1] = begin, end
            crowd_count += 1
        begin = end
    return pairs[:found].copy(), crowds[:crowd_count].copy(), candidates, estimated


@compiled
def _pair_group(
    group: NDArray[np.uint64], middle: int, among_own: bool, sketched: Sketched, pairs: NDArray[np.uint64]
) -> tuple[int, int]:
    """How many pairs were written, -1 if they are more than there is room for, and how many were compared."""
    sketches, rows, least = sketched
    found, compared = 0, 0
    for i in range(middle, group.size):
        later = group[i] & NUMBER
        for j in range(i if among_own else middle):
            earlier = group[j] & NUMBER
            compared += 1
            if sketches_agree(sketches, rows[later], rows[earlier], least):
                if found == pairs.size:
                    return -1, compared
                pairs[found] = later << UPPER | earlier
                found += 1
    return found, compared
