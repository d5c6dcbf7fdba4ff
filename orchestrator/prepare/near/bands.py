"""How many bands of how many rows a signature has, and what share of the true pairs that finds.

Pure arithmetic; comes before sign.py. A pair becomes a candidate if some band agrees in all its rows and enough bytes
of the two sketches are equal. Both are counted here, with the bytes that are equal by chance."""

import math
from functools import lru_cache, reduce

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.errors import BadInput
from orchestrator.prepare.near.documents import NearRules

SLACK = 0.10  # an estimate this far below the threshold still makes candidates
MOST_MINIMA = 128  # bands times rows: time and memory of a document grow with it
ENOUGH = 0.95  # of the pairs at the threshold, where sketches make the bands
_BY_CHANCE = 1 / 256  # two bytes of unlike minima are equal

Shares = NDArray[np.float64]  # [k]: how probable it is that k bytes are equal


@lru_cache(maxsize=16)
def choose_bands(threshold: float, recall: float) -> tuple[int, int]:
    """Bands and rows: of all that fill a signature, those with the fewest candidates in vain that reach `recall`.

    More rows let fewer unlike pairs through, so the most rows that still find enough at the threshold are taken."""
    shapes = [(MOST_MINIMA // rows, rows) for rows in range(MOST_MINIMA, 0, -1)]
    for bands, rows in shapes:
        if recall_at(threshold, bands, rows) >= recall:
            return bands, rows
    best = max(recall_at(threshold, bands, rows) for bands, rows in shapes)
    raise BadInput(
        f"no signature of {MOST_MINIMA} minima finds {recall:.4g} of the pairs at similarity {threshold:g}; "
        f"the best finds {best:.4f}",
        remedy="lower prepare.dedup.near.recall, or raise the threshold",
    )


def choose_sketch_bands(near: NearRules) -> tuple[int, int]:
    """Bands and rows of sketch bytes for a threshold below the one that the keys were made for: 3 rows of 8 bits make
    few candidates in vain, 2 find what is less alike."""
    width = near.bands * near.rows
    shapes = [(width // rows, rows) for rows in (3, 2)]
    return next((shape for shape in shapes if recall_at(near.threshold, *shape) >= ENOUGH), shapes[-1])


def recall_at(
    similarity: float, bands: int, rows: int, *, threshold: float | None = None, slack: float = SLACK
) -> float:
    """The share of the pairs of this similarity that become candidates; it is the threshold if none is given."""
    least = least_equal(similarity if threshold is None else threshold, bands * rows, slack)
    unlike = (1 - similarity) * _BY_CHANCE, (1 - similarity) * (1 - _BY_CHANCE)
    band = _multiply([np.array([unlike[1], similarity + unlike[0]])] * rows)  # equal bytes of one band
    unmatched = band.copy()
    unmatched[rows] -= similarity**rows  # the same, where the band does not agree in all rows
    passing = _multiply([band] * bands)[least:].sum()
    missed = _multiply([unmatched] * bands)[least:].sum()
    return float(passing - missed)


def recall_curve(rules: NearRules) -> list[tuple[float, float]]:
    """Recall by similarity in steps of 0.05, and at the threshold itself."""
    similarities = sorted({*(step / 20 for step in range(21)), rules.threshold})
    return [(s, recall_at(s, rules.bands, rules.rows, threshold=rules.threshold)) for s in similarities]


def least_equal(threshold: float, width: int, slack: float = SLACK) -> int:
    """So many of the `width` bytes of two sketches must be equal."""
    return max(0, math.ceil((threshold - slack) * width - 1e-9))


def _multiply(parts: list[Shares]) -> Shares:
    """Of independent parts together."""
    return reduce(np.convolve, parts)
