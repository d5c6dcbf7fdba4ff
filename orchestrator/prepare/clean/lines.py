"""Compiled: what C4 asks of every line of a text, and how many sentences it has. c4.py judges by it."""

import numpy as np
from numpy.typing import NDArray

from orchestrator.prepare.clean.characters import LINE_BREAK, SENTENCE_END, SPACE
from orchestrator.prepare.clean.cut import Codes, Kinds
from orchestrator.prepare.near.compiled import compiled

DROP, KEEP, LOOK = range(3)  # LOOK: it has a bracket, which decides
_STOP, _SQUARE, _CURLY, _RETURN, _NEWLINE = ord("."), ord("["), ord("{"), ord("\r"), ord("\n")
_MARKS = np.array([ord(mark) for mark in ".?!\"'"], np.uint32)
_CLOSERS = np.array([ord(closer) for closer in "\"')]}\u00bb\u201d\u2019\u300d\u300f"], np.uint32)


@compiled
def judge_lines(
    codes: Codes, kinds: Kinds, num_lines: int, longest_word: int, least_words: int, ended: bool
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """For each line, as str.splitlines() cuts them into `num_lines`: what becomes of it, and its number of sentences.

    A sentence ends with a mark, closing quotes or brackets after it, and whitespace or the end of the line."""
    fates, sentences = np.empty(num_lines, np.uint8), np.zeros(num_lines, np.int64)
    at = 0
    for line in range(num_lines):
        words, word, longest, last, bracket = 0, 0, 0, -1, False
        is_open, ending = False, False  # whether a sentence has begun; whether whitespace would end it
        begin = at
        while at < codes.size and not kinds[at] & LINE_BREAK:
            code, kind = codes[at], kinds[at]
            if kind & SPACE:
                sentences[line] += ending
                is_open, ending = is_open and not ending, False
                word = 0
            else:
                is_open, ending = True, kind & SENTENCE_END != 0 or (ending and _is_one_of(code, _CLOSERS))
                word += 1
                words += word == 1
                longest = max(longest, word)
                bracket = bracket or code in (_SQUARE, _CURLY)
                last = at
            at += 1
        sentences[line] += is_open
        if last < 0 or words < least_words or (longest_word and longest > longest_word):
            fates[line] = DROP
        elif bracket:
            fates[line] = LOOK
        else:
            fates[line] = KEEP if not ended or _ends_sentence(codes, begin, last) else DROP
        at += 2 if at + 1 < codes.size and codes[at] == _RETURN and codes[at + 1] == _NEWLINE else 1
    return fates, sentences


@compiled
def _ends_sentence(codes: Codes, begin: int, last: int) -> bool:
    """Whether a line's last character is a mark, and no ellipsis."""
    if not _is_one_of(codes[last], _MARKS):
        return False
    return not (last - begin >= 2 and codes[last] == _STOP and codes[last - 1] == _STOP and codes[last - 2] == _STOP)


@compiled
def _is_one_of(code: np.uint32, known: Codes) -> bool:
    found = False
    for one in known:
        found = found or code == one
    return found
