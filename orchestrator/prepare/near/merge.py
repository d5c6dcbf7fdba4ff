"""Puts the matches of all bands together: each pair once, and crowds that share a member as one.

Comes after match.py. decide.py scores the pairs; documents that pairs tie to a crowd are then decided with it
(`join_crowds`), so that each crowd can be decided by itself, and what is in no crowd in one go."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.prepare.near.compiled import compiled
from orchestrator.prepare.near.match import NUMBER, UPPER, Matches


class Candidates(NamedTuple):
    """Of a segment. A pair is `later << 32 | earlier`; both in one crowd are no pair."""

    pairs: NDArray[np.uint64]  # ascending: by the later one, then by the earlier
    crowds: list[NDArray[np.int64]]  # numbers of the members, ascending; no document is in two


def merge_matches(matches: Sequence[Matches]) -> Candidates:
    """In whatever order the bands come, the same comes out."""
    groups = [
        match.crowded[begin:end].astype(np.int64)
        for match in matches
        for begin, end in zip(match.crowd_ends[:-1], match.crowd_ends[1:], strict=True)
    ]
    crowds = _unite(groups)
    pairs = np.unique(np.concatenate([np.empty(0, np.uint64), *(match.pairs for match in matches)]))
    if not crowds:
        return Candidates(pairs, crowds)
    later, earlier = split_pairs(pairs)
    inside = _name_crowds(later, crowds)
    inside = (inside >= 0) & (inside == _name_crowds(earlier, crowds))
    return Candidates(pairs[~inside], crowds)


def join_crowds(candidates: Candidates, alike: NDArray[np.uint64]) -> tuple[list[NDArray[np.int64]], NDArray[np.bool_]]:
    """Crowds with everything that `alike` pairs (those at or above the threshold) tie to them, and which of these
    pairs are in none of them."""
    later, earlier = split_pairs(alike)
    if not candidates.crowds:
        return [], np.ones(len(alike), np.bool_)
    numbers = np.unique(np.concatenate([*candidates.crowds, later, earlier]))
    labels = _find_components(numbers, candidates.crowds, later, earlier)
    heads = labels[np.searchsorted(numbers, np.array([crowd[0] for crowd in candidates.crowds]))]
    crowds = _gather(numbers, labels, np.unique(heads))
    return crowds, ~np.isin(labels[np.searchsorted(numbers, later)], heads)


def split_pairs(pairs: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return (pairs >> UPPER).astype(np.int64), (pairs & NUMBER).astype(np.int64)


def _unite(groups: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    if not groups:
        return []
    numbers = np.unique(np.concatenate(groups))
    nothing = np.empty(0, np.int64)
    labels = _find_components(numbers, groups, nothing, nothing)
    return _gather(numbers, labels, np.unique(labels))


def _gather(
    numbers: NDArray[np.int64], labels: NDArray[np.int64], wanted: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    """The numbers with each of the wanted labels."""
    order = np.argsort(labels, kind="stable")
    begins = np.searchsorted(labels[order], wanted, side="left")
    ends = np.searchsorted(labels[order], wanted, side="right")
    return [numbers[order[begin:end]] for begin, end in zip(begins, ends, strict=True)]


def _name_crowds(numbers: NDArray[np.int64], crowds: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Which crowd each document is in, -1 if in none."""
    members = np.concatenate(crowds)
    names = np.repeat(np.arange(len(crowds)), [len(crowd) for crowd in crowds])
    order = np.argsort(members)
    places = np.minimum(np.searchsorted(members[order], numbers), len(members) - 1)
    return np.where(members[order[places]] == numbers, names[order[places]], -1)


def _find_components(
    numbers: NDArray[np.int64],
    groups: list[NDArray[np.int64]],
    later: NDArray[np.int64],
    earlier: NDArray[np.int64],
) -> NDArray[np.int64]:
    """For each of `numbers` (sorted) the place of the smallest one that groups and pairs tie it to."""
    ones = np.concatenate([later, *(group[1:] for group in groups)])
    others = np.concatenate([earlier, *(group[:-1] for group in groups)])
    return _join(len(numbers), np.searchsorted(numbers, ones), np.searchsorted(numbers, others))


@compiled
def _join(count: int, ones: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    parents = np.arange(count)
    for i in range(ones.size):
        a, b = ones[i], others[i]
        while parents[a] != a:
            parents[a] = parents[parents[a]]
            a = parents[a]
        while parents[b] != b:
            parents[b] = parents[parents[b]]
            b = parents[b]
        parents[max(a, b)] = min(a, b)
    for i in range(count):  # a parent is never the larger one, so its own is final by now
        parents[i] = parents[parents[i]]
    return parents
