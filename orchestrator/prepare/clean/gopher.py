"""Gopher's rules of quality (Rae and others 2021, appendix A.1.1), and stop words alone."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from orchestrator.prepare.clean.sample import Count, Ratio, Share, Unfit, above, below
from orchestrator.prepare.clean.text import Text

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")


def gopher_quality(
    text: Text,
    min_words: Count = 50,
    max_words: Count = 100_000,
    min_mean_length: Ratio = 3,
    max_mean_length: Ratio = 10,
    max_symbols: Ratio = 0.1,
    max_bullet_lines: Share = 0.9,
    max_ellipsis_lines: Share = 0.3,
    min_with_letter: Share = 0.8,
    min_stop_words: Count = 2,
    stop_words: Sequence[str] = STOP_WORDS,
) -> Unfit | None:
    """Number and mean length of words, symbols a word, bullets, ellipses, letters, stop words."""
    words = text.words
    num_words, mean_length = len(words) or 1, words.characters / (words.not_symbols or 1)
    return (
        below(words.not_symbols, min_words, "words")
        or above(words.not_symbols, max_words, "words")
        or below(mean_length, min_mean_length, "characters a word")
        or above(mean_length, max_mean_length, "characters a word")
        or above(text.count("#") / num_words, max_symbols, "hash signs a word")
        or above((text.count("...") + text.count("…")) / num_words, max_symbols, "ellipses a word")
        or _judge_lines(text, max_bullet_lines, max_ellipsis_lines)
        or below(words.with_letter / num_words, min_with_letter, "of its words have a letter")
        or _judge_stop_words(text, min_stop_words, stop_words)
    )


def stop_words(text: Text, least: Count = 2, words: Sequence[str] = STOP_WORDS) -> Unfit | None:
    """How many different ones of `words` it has, as they are written here."""
    return _judge_stop_words(text, least, words)


def _judge_lines(text: Text, max_bullets: float, max_ellipses: float) -> Unfit | None:
    from orchestrator.prepare.clean.lines import BULLET, ELLIPSIS

    num_lines = len(text.lines) or 1
    bullets, ellipses = text.lines.count(BULLET), text.lines.count(ELLIPSIS)
    return above(bullets / num_lines, max_bullets, "of its lines begin with a bullet") or above(
        ellipses / num_lines, max_ellipses, "of its lines end with an ellipsis"
    )


def _judge_stop_words(text: Text, least: int, words: Sequence[str]) -> Unfit | None:
    from orchestrator.prepare.clean.cut import count_known

    found = count_known(text.words.hashes, _hash_words(tuple(words)))
    return below(found, least, f"of the stop words {', '.join(words)}")


@lru_cache(maxsize=16)
def _hash_words(words: tuple[str, ...]) -> NDArray[np.uint64]:
    return Text(" ".join(dict.fromkeys(words))).words.hashes
