"""Rules about how long a text is and what its characters are. Shares are of all its characters unless they say more."""

from orchestrator.prepare.clean.characters import DIGIT, LETTER, PUNCTUATION, SYMBOL, UPPER
from orchestrator.prepare.clean.sample import Count, Ratio, Share, Unfit, above, below
from orchestrator.prepare.clean.text import Text


def length(
    text: Text,
    min_characters: Count | None = None,
    max_characters: Count | None = None,
    min_words: Count | None = None,
    max_words: Count | None = None,
) -> Unfit | None:
    """Bounds of its length, both ends included."""
    unfit = below(len(text), min_characters, "characters") or above(len(text), max_characters, "characters")
    if unfit or (min_words is None and max_words is None):
        return unfit
    return below(len(text.words), min_words, "words") or above(len(text.words), max_words, "words")


def symbol_ratio(text: Text, max: Ratio = 0.1) -> Unfit | None:
    """Hash signs a word, and ellipses a word: neither may be more."""
    num_words = len(text.words) or 1
    hashes, ellipses = text.count("#"), text.count("...") + text.count("…")
    return above(hashes / num_words, max, "hash signs a word") or above(ellipses / num_words, max, "ellipses a word")


def digit_ratio(text: Text, max: Share = 0.15) -> Unfit | None:
    """Share of decimal digits, of any script."""
    return above(_count(text, DIGIT) / (len(text) or 1), max, "of its characters are digits")


def uppercase_ratio(text: Text, max: Share) -> Unfit | None:
    """Share of capital letters among its letters."""
    return above(_count(text, UPPER) / (_count(text, LETTER) or 1), max, "of its letters are capitals")


def punctuation_ratio(text: Text, max: Share) -> Unfit | None:
    """Share of punctuation and symbols."""
    found = _count(text, PUNCTUATION) + _count(text, SYMBOL)
    return above(found / (len(text) or 1), max, "of its characters are punctuation or symbols")


def _count(text: Text, bit: int) -> int:
    return text.bits[bit.bit_length() - 1]
