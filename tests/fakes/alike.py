"""Documents as sets of numbers, their signatures, and verdicts by comparing every two: what near duplicates are
tested with."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from orchestrator.prepare.near.documents import Sets

Page = NDArray[np.uint64]
SLACK = 0.10


def pack_sets(pages: Sequence[Page]) -> Sets:
    ends = np.cumsum([0, *(len(page) for page in pages)], dtype=np.int64)
    return Sets(np.concatenate([np.empty(0, np.uint64), *(np.unique(page) for page in pages)]), ends)


def load_from(pages: Sequence[Page]) -> Callable[[NDArray[np.int64]], Sets]:
    return lambda numbers: pack_sets([pages[number] for number in numbers])


def sign(pages: Sequence[Page], bands: int, rows: int) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """Keys and sketches. An empty page takes no part."""
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 2**63, bands * rows, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    mixing = rng.integers(0, 2**63, rows, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    keys, sketches = np.zeros((len(pages), bands), np.uint32), np.zeros((len(pages), bands * rows), np.uint8)
    for i, page in enumerate(pages):
        if len(page):
            scrambled = (page * np.uint64(0x9E3779B97F4A7C15)) ^ (page >> np.uint64(29))
            minima = ((scrambled[:, None] * factors) >> np.uint64(32)).min(axis=0)
            keys[i] = ((minima.reshape(bands, rows) * mixing).sum(axis=1) >> np.uint64(31)).astype(np.uint32) | 1
            sketches[i] = minima.astype(np.uint8)
    return keys, sketches


def similarity_of(one: Page, other: Page) -> float:
    both = len(np.intersect1d(one, other))
    return both / (len(np.unique(one)) + len(np.unique(other)) - both)


def are_candidates(keys: NDArray[np.uint32], sketches: NDArray[np.uint8], i: int, j: int, threshold: float) -> bool:
    meet = bool(((keys[i] == keys[j]) & (keys[i] != 0)).any())
    return meet and float((sketches[i] == sketches[j]).mean()) >= threshold - SLACK - 1e-9


def judge_every_two(
    pages: Sequence[Page],
    keys: NDArray[np.uint32],
    sketches: NDArray[np.uint8],
    own: int,
    threshold: float,
    *,
    among_own: bool = True,
) -> tuple[list[int], list[float]]:
    """Partner (-1: stays) and score of the documents from `own` on, straight from the rule."""
    partners, scores = [], []
    kept = list(range(own))
    for i in range(own, len(pages)):
        found = next(
            (
                (k, similarity_of(pages[k], pages[i]))
                for k in kept
                if are_candidates(keys, sketches, k, i, threshold) and similarity_of(pages[k], pages[i]) >= threshold
            ),
            None,
        )
        if found is None and among_own:
            kept.append(i)
        partner, score = found or (-1, 0.0)
        partners.append(partner)
        scores.append(score)
    return partners, scores


def make_template(rng: np.random.Generator, count: int, common: int, fewest_own: int, most_own: int) -> list[Page]:
    """Pages that have `common` shingles in common, and between so many others of their own."""
    frame = rng.integers(0, 2**63, common, dtype=np.uint64)
    sizes = rng.integers(fewest_own, most_own + 1, count)
    return [np.concatenate([frame, rng.integers(0, 2**63, size, dtype=np.uint64)]) for size in sizes]
