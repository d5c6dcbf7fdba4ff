"""Verdicts on near duplicates: exact similarities of pairs, then who stays, the smallest number first.

Comes after merge.py. A document goes only as the duplicate of a kept one with a smaller number whose exact
similarity is at or above the threshold: the smallest such number. `judge` runs everything from keys to verdicts in
one process; the stages are apart so that jobs may share them out: bands (match.py), slices of pairs
(`score_pairs`), crowds (crowd.py)."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.prepare.near.compare import measure_similarity
from orchestrator.prepare.near.compiled import compiled
from orchestrator.prepare.near.crowd import Verdicts, decide_crowd
from orchestrator.prepare.near.documents import Sets
from orchestrator.prepare.near.kernels import read_only
from orchestrator.prepare.near.match import LIMITS, Limits, match_band, sort_keys
from orchestrator.prepare.near.merge import Candidates, join_crowds, merge_matches, split_pairs

LoadSets = Callable[[NDArray[np.int64]], Sets]  # sets of the documents with these numbers, in their order
NOT_NEEDED = -1.0


class Cost(NamedTuple):
    """How much was looked at. Nothing is ever cut: these explain time, not loss."""

    candidates: int  # pairs with an equal key, summed over bands, those inside crowds left out
    estimated: int  # sketches compared
    pairs: int  # pairs whose sketches agree, each counted once
    crowds: int
    crowd_members: int
    checks: int  # exact similarities computed


def judge(
    keys: NDArray[np.uint32],
    sketches: NDArray[np.uint8],
    own: int,
    threshold: float,
    load_sets: LoadSets,
    *,
    among_own: bool = True,
    limits: Limits = LIMITS,
) -> tuple[Verdicts, Cost]:
    """Verdicts of the documents from `own` on; those before are kept ones of earlier segments. Not `among_own`: own
    documents are compared with those alone (training documents with those they must not repeat)."""
    matches = [
        match_band(
            sort_keys(band[own:], own), [sort_keys(band[:own], 0)], own, sketches, threshold, among_own=among_own
        )
        for band in keys.T
    ]
    candidates = merge_matches(matches)
    sure = find_surely_kept(candidates, own)
    scores, checks = np.empty(len(candidates.pairs)), 0
    for part in slice_pairs(candidates.pairs, limits.documents):
        numbers = np.unique(np.concatenate(split_pairs(candidates.pairs[part])))
        scores[part], done = score_pairs(candidates.pairs[part], sure[part], numbers, load_sets(numbers), threshold)
        checks += done
    alike = scores >= threshold
    crowds, apart = join_crowds(candidates, candidates.pairs[alike])
    partner, score = np.full(len(keys) - own, -1, np.int64), np.zeros(len(keys) - own)
    later, earlier, similarity = follow_pairs(candidates.pairs[alike][apart], scores[alike][apart])
    partner[later - own], score[later - own] = earlier, similarity
    for numbers in crowds:
        with gather_sets(numbers, load_sets, limits.documents) as sets:
            verdicts = decide_crowd(
                numbers, sets, keys[numbers], sketches[numbers], own, threshold, among_own=among_own
            )
        mine = numbers >= own
        partner[numbers[mine] - own], score[numbers[mine] - own] = verdicts.partner[mine], verdicts.score[mine]
        checks += verdicts.checks
    cost = Cost(
        candidates=sum(match.candidates for match in matches),
        estimated=sum(match.estimated for match in matches),
        pairs=len(candidates.pairs),
        crowds=len(crowds),
        crowd_members=sum(len(crowd) for crowd in crowds),
        checks=checks,
    )
    return Verdicts(partner, score, checks), cost


def find_surely_kept(candidates: Candidates, own: int) -> NDArray[np.bool_]:
    """For each pair whether its earlier document stays whatever the others do: nothing could drop it."""
    later, earlier = split_pairs(candidates.pairs)
    in_doubt = np.concatenate([later, *candidates.crowds])
    return (earlier < own) | ~np.isin(earlier, in_doubt)


def slice_pairs(pairs: NDArray[np.uint64], most_documents: int) -> Iterator[slice]:
    """Slices of at most so many documents, unless a single later one has more; each has all pairs of its later ones."""
    later, _ = split_pairs(pairs)
    row_ends = np.append(np.flatnonzero(later[1:] != later[:-1]) + 1, len(pairs)) if len(pairs) else np.empty(0, int)
    documents = row_ends + np.arange(1, len(row_ends) + 1)  # up to each row, with those that come twice
    row, begin = 0, 0
    while row < len(row_ends):
        row = max(row + 1, int(np.searchsorted(documents, begin + row + most_documents, side="right")))
        end = int(row_ends[row - 1])
        yield slice(begin, end)
        begin = end


def score_pairs(
    pairs: NDArray[np.uint64], sure: NDArray[np.bool_], numbers: NDArray[np.int64], sets: Sets, threshold: float
) -> tuple[NDArray[np.float64], int]:
    """Exact similarities, and how many were computed. `numbers` (ascending) are the documents of the sets. Once a
    document is like one that is surely kept, its further pairs cannot matter and stay NOT_NEEDED."""
    later, earlier = (np.searchsorted(numbers, side) for side in split_pairs(pairs))
    return _score(later, earlier, read_only(sure), read_only(sets.flat), read_only(sets.ends), threshold)


@compiled
def _score(
    later: NDArray[np.int64],
    earlier: NDArray[np.int64],
    sure: NDArray[np.bool_],
    flat: NDArray[np.uint64],
    ends: NDArray[np.int64],
    threshold: float,
) -> tuple[NDArray[np.float64], int]:
    scores, checks, settled = np.full(later.size, NOT_NEEDED), 0, -1
    for i in range(later.size):
        if later[i] != settled:
            scores[i] = measure_similarity(flat, ends, later[i], earlier[i])
            checks += 1
            if sure[i] and scores[i] >= threshold:
                settled = later[i]
    return scores, checks


def follow_pairs(
    alike: NDArray[np.uint64], scores: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The documents that go, of which earlier one, with which score. `alike`: pairs at or above the threshold,
    ascending."""
    later, earlier = split_pairs(alike)
    rows, row = np.unique(later, return_inverse=True)
    place = np.searchsorted(rows, earlier)
    doubtful = np.append(rows, -1)[place] == earlier
    chosen = _follow(row, np.where(doubtful, place, -1), len(rows))
    return later[chosen], earlier[chosen], scores[chosen]


@compiled
def _follow(row: NDArray[np.int64], earlier_row: NDArray[np.int64], rows: int) -> NDArray[np.bool_]:
    dropped, chosen = np.zeros(rows, np.bool_), np.zeros(row.size, np.bool_)
    for i in range(row.size):
        if not dropped[row[i]] and (earlier_row[i] < 0 or not dropped[earlier_row[i]]):
            dropped[row[i]] = chosen[i] = True
    return chosen


@contextmanager
def gather_sets(
    numbers: NDArray[np.int64], load_sets: LoadSets, most_documents: int, scratch: Path | None = None
) -> Iterator[Sets]:
    """Sets of all these documents; if they are many, in a file under `scratch` that the machine's spare memory
    caches."""
    if len(numbers) <= most_documents:
        yield load_sets(numbers)
        return
    sizes = []
    with tempfile.TemporaryFile(dir=scratch) as file:
        for begin in range(0, len(numbers), most_documents):
            part = load_sets(numbers[begin : begin + most_documents])
            file.write(part.flat.data)
            sizes.append(np.diff(part.ends))
        file.flush()
        flat = np.asarray(np.memmap(file, np.uint64, mode="r+"))
        yield Sets(flat, np.cumsum(np.concatenate([[0], *sizes]), dtype=np.int64))
