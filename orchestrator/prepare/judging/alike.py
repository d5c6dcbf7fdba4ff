"""Documents from outside that training documents must not be like: compared as samples are with one another (near/).

Beside forbidden.py, which looks for repeated words. Signed once a process; every shard is compared when it is signed,
so that no verdict waits for, or depends on, another shard."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from orchestrator.prepare.near.bands import choose_sketch_bands
from orchestrator.prepare.near.decide import judge
from orchestrator.prepare.near.documents import EXEMPT, NearRules, Sets, Signatures, Texts
from orchestrator.prepare.near.match import keys_of_sketch
from orchestrator.prepare.near.sign import cut_sets, sign_texts


class Likeness(NamedTuple):
    name: str  # of the text from outside
    score: float


@dataclass(frozen=True, kw_only=True)
class Outsiders:
    """In the order of the files: of several that a document is like, the first is named."""

    names: Sequence[str]
    texts: Texts
    sketch: NDArray[np.uint8]
    near: NearRules

    @classmethod
    def sign(cls, names: Sequence[str], texts: Texts, near: NearRules) -> Self:
        """Without those too short to compare."""
        signatures = sign_texts(texts, near)
        rows = np.flatnonzero(signatures.kinds != EXEMPT)
        return cls(
            names=[names[row] for row in rows.tolist()],
            texts=_take(texts, rows),
            sketch=signatures.sketch[rows],
            near=near,
        )

    def find(self, texts: Texts, signatures: Signatures, rows: NDArray[np.int64]) -> dict[int, Likeness]:
        """By row of `texts`, those of `rows` (ascending) that are like one from outside."""
        rows = rows[signatures.kinds[rows] != EXEMPT]
        own = len(self.names)
        if not own or not len(rows):
            return {}
        sketch = np.concatenate([self.sketch, signatures.sketch[rows]])

        def load_sets(numbers: NDArray[np.int64]) -> Sets:
            outside = cut_sets(self.texts, self.near, numbers[numbers < own])
            return _join(outside, cut_sets(texts, self.near, rows[numbers[numbers >= own] - own]))

        keys = keys_of_sketch(sketch, *choose_sketch_bands(self.near))
        verdicts, _ = judge(keys, sketch, own, self.near.threshold, load_sets, among_own=False)
        found = np.flatnonzero(verdicts.partner >= 0)
        said = zip(rows[found].tolist(), verdicts.partner[found].tolist(), verdicts.score[found].tolist(), strict=True)
        return {row: Likeness(self.names[partner], score) for row, partner, score in said}


def _take(texts: Texts, rows: NDArray[Any]) -> Texts:
    return Texts(texts.data, texts.begins[rows], texts.ends[rows])


def _join(first: Sets, second: Sets) -> Sets:
    ends = np.concatenate([first.ends, first.ends[-1] + second.ends[1:]])
    return Sets(np.concatenate([first.flat, second.flat]), ends)
