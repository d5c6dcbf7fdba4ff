"""Rules against texts that repeat themselves; the bounds are those of Gopher (Rae and others 2021, table A1)."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from orchestrator.prepare.clean.sample import Share, Unfit, above
from orchestrator.prepare.clean.text import Text

Bounds = Sequence[Annotated[Sequence[Annotated[float, Field(gt=0)]], Field(min_length=2, max_length=2)]]
TOP_NGRAMS = ((2, 0.2), (3, 0.18), (4, 0.16))
DUPLICATE_NGRAMS = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.1))


def repeated_lines(text: Text, max_lines: Share = 0.3, max_characters: Share = 0.2) -> Unfit | None:
    """Lines that stood before in the text: their share of the lines, and its characters. Empty ones do not count."""
    return _judge_parts("lines", text.split("\n"), len(text), max_lines, max_characters)


def repeated_paragraphs(text: Text, max_paragraphs: Share = 0.3, max_characters: Share = 0.2) -> Unfit | None:
    """The same for paragraphs, which blank lines separate."""
    paragraphs = [part.lstrip("\n") for part in text.strip().split("\n\n")]
    return _judge_parts("paragraphs", paragraphs, len(text), max_paragraphs, max_characters)


def repeated_ngrams(text: Text, top: Bounds = TOP_NGRAMS, duplicate: Bounds = DUPLICATE_NGRAMS) -> Unfit | None:
    """Runs of n words, as pairs of n and the largest share of the text's characters: in the most frequent one, and in
    all that stood before."""
    from orchestrator.prepare.clean.ngrams import measure_ngrams

    words = text.words
    sizes = [np.array([n for n, _ in bounds], np.int64) for bounds in (top, duplicate)]
    of_top, of_duplicate = measure_ngrams(words.hashes, words.lengths, *sizes)
    for (n, most), characters in zip(top, of_top.tolist(), strict=True):
        if characters > most * len(text):
            return above(characters / len(text), most, f"of its characters are the most frequent {n:g} words")
    for (n, most), characters in zip(duplicate, of_duplicate.tolist(), strict=True):
        if characters > most * len(text):
            return above(characters / len(text), most, f"of its characters are repeated runs of {n:g} words")
    return None


def gopher_repetition(
    text: Text,
    max_lines: Share = 0.3,
    max_line_characters: Share = 0.2,
    max_paragraphs: Share = 0.3,
    max_paragraph_characters: Share = 0.2,
    top: Bounds = TOP_NGRAMS,
    duplicate: Bounds = DUPLICATE_NGRAMS,
) -> Unfit | None:
    """Paragraphs, lines and n-grams together."""
    return (
        repeated_paragraphs(text, max_paragraphs, max_paragraph_characters)
        or repeated_lines(text, max_lines, max_line_characters)
        or repeated_ngrams(text, top, duplicate)
    )


def _judge_parts(what: str, parts: list[str], characters: int, max_parts: float, max_characters: float) -> Unfit | None:
    parts = list(filter(None, parts))
    different = set(parts)
    repeated = len(parts) - len(different)
    if not repeated:
        return None
    in_repeated = sum(map(len, parts)) - sum(map(len, different))
    return above(repeated / len(parts), max_parts, f"of its {what} are repeated") or above(
        in_repeated / characters, max_characters, f"of its characters are in repeated {what}"
    )
