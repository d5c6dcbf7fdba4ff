"""What the functions of this room are given and give: texts, the rules of near duplicates, signatures, sets.

Comes first; every other module here imports it."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.config.preparing import NearSection

ALGORITHM = "near 1"  # rises when the same text comes to other signatures or sets
EXEMPT, WORDS, CHARACTERS = range(3)  # how a document is cut: too short to compare, words, or characters


@dataclass(frozen=True, slots=True)
class Texts:
    """Documents as UTF-8 in normal form C: document i is `data[begins[i]:ends[i]]`."""

    data: NDArray[np.uint8]
    begins: NDArray[np.int64]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.begins)


@dataclass(frozen=True, kw_only=True, slots=True)
class NearRules:
    """What decides signatures and sets; bands and rows follow from threshold and recall (bands.py)."""

    threshold: float
    words: int
    characters: int
    bands: int
    rows: int

    @classmethod
    def of(cls, near: NearSection) -> "NearRules":
        from orchestrator.prepare.near.bands import choose_bands

        bands, rows = choose_bands(near.threshold, near.recall)
        return cls(threshold=near.threshold, words=near.words, characters=near.characters, bands=bands, rows=rows)


class Signatures(NamedTuple):
    """Of n documents. An exempt one has zeros."""

    kinds: NDArray[np.uint8]  # [n], EXEMPT, WORDS or CHARACTERS
    keys: NDArray[np.uint32]  # [n, bands]: equal keys in a band make two documents candidates
    sketch: NDArray[np.uint8]  # [n, bands * rows]: the share of equal bytes estimates similarity


class Sets(NamedTuple):
    """Shingles of documents: those of document i are `flat[ends[i]:ends[i + 1]]`, sorted, each once."""

    flat: NDArray[np.uint64]
    ends: NDArray[np.int64]  # n + 1 of them, the first is 0
