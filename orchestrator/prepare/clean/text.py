"""A text that remembers what was counted in it, so that rules after one another count once.

It is a str, and users' functions see nothing else. numba is imported when something is counted first."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from orchestrator.prepare.clean.characters import class_table


@dataclass(frozen=True, slots=True)
class Words:
    """What stands between whitespace. `symbols` are words of punctuation and symbols alone."""

    hashes: NDArray[np.uint64]
    lengths: NDArray[np.int32]
    with_letter: int
    not_symbols: int
    characters: int  # of those that are not symbols
    longest: int

    def __len__(self) -> int:
        return len(self.hashes)


@dataclass(frozen=True, slots=True)
class Lines:
    """As str.splitlines() cuts them. `marks` are bits of lines.py."""

    texts: list[str]
    marks: NDArray[np.uint8]
    words: NDArray[np.int64]
    longest_word: NDArray[np.int64]
    sentences: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.texts)

    def count(self, mark: int) -> int:
        return int(np.count_nonzero(self.marks & mark))


class Text(str):
    """Altering steps make a new one."""

    @cached_property
    def codes(self) -> NDArray[np.uint32 | np.uint8]:
        """Its code points, in a byte each where that is enough: kernels are compiled for both."""
        if self.isascii():
            return np.frombuffer(self.encode("ascii"), np.uint8)
        return np.frombuffer(self.encode("utf-32-le", "surrogatepass"), np.uint32)

    @cached_property
    def kinds(self) -> NDArray[np.uint8]:
        """What each of them is, as bits of characters.py."""
        from orchestrator.prepare.clean.cut import look_up_kinds

        return look_up_kinds(self.codes, class_table())

    @cached_property
    def words(self) -> Words:
        from orchestrator.prepare.clean.cut import cut_words

        hashes, lengths, counts = cut_words(self.codes, self.kinds)
        return Words(hashes, lengths, *counts.tolist())

    @cached_property
    def lines(self) -> Lines:
        from orchestrator.prepare.clean.lines import read_lines

        texts = self.splitlines()
        return Lines(texts, *read_lines(self.codes, self.kinds, len(texts)))

    @cached_property
    def bits(self) -> list[int]:
        """How many characters have each bit, lowest first."""
        from orchestrator.prepare.clean.cut import count_bits

        counts: list[int] = count_bits(self.kinds).tolist()
        return counts
