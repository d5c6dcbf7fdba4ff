"""Compiled: what Gopher and C4 ask of every line of a text, in one pass. text.py calls it once."""

import numpy as np
from numpy.typing import NDArray

from orchestrator.prepare.clean.characters import LINE_BREAK, SENTENCE_END, SPACE
from orchestrator.prepare.clean.cut import Codes, Kinds
from orchestrator.prepare.near.compiled import compiled

ENDED, BRACKET, BULLET, ELLIPSIS = (1 << bit for bit in range(4))
_STOP, _DOTS, _SQUARE, _CURLY, _BULLET, _DASH = (ord(character) for character in ".…[{•-")
_RETURN, _NEWLINE = ord("\r"), ord("\n")
_MARKS = np.array([ord(mark) for mark in ".?!\"'"], np.uint32)
_CLOSERS = np.array([ord(closer) for closer in "\"')]}\u00bb\u201d\u2019\u300d\u300f"], np.uint32)
Ints = NDArray[np.int64]


@compiled
def read_lines(codes: Codes, kinds: Kinds, num_lines: int) -> tuple[NDArray[np.uint8], Ints, Ints, Ints]:
    """For each line, as str.splitlines() cuts them into `num_lines`: its marks as bits, its words, the characters of
    the longest, and its sentences.

    A sentence ends with a mark, closing quotes or brackets after it, and whitespace or the end of the line."""
    marks, words = np.zeros(num_lines, np.uint8), np.zeros(num_lines, np.int64)
    longest, sentences = np.zeros(num_lines, np.int64), np.zeros(num_lines, np.int64)
    at = 0
    for line in range(num_lines):
        word, first, last = 0, -1, -1  # characters of the word so far; where the line's text begins and ends
        is_open, ending = False, False  # whether a sentence has begun; whether whitespace would end it
        num_words, most, num_sentences, bracket = 0, 0, 0, False  # local: several times as fast as in the arrays
        while at < codes.size and not kinds[at] & LINE_BREAK:
            code, kind = codes[at], kinds[at]
            if kind & SPACE:
                num_sentences += ending
                is_open, ending = is_open and not ending, False
                word = 0
            else:
                is_open, ending = True, kind & SENTENCE_END != 0 or (ending and _is_one_of(code, _CLOSERS))
                word += 1
                num_words += word == 1
                most = max(most, word)
                bracket = bracket or code in (_SQUARE, _CURLY)
                first, last = at if first < 0 else first, at
            at += 1
        words[line], longest[line], sentences[line] = num_words, most, num_sentences + is_open
        if last >= 0:
            marks[line] = _mark_ends(codes, first, last) | (BRACKET if bracket else 0)
        at += 2 if at + 1 < codes.size and codes[at] == _RETURN and codes[at + 1] == _NEWLINE else 1
    return marks, words, longest, sentences


@compiled
def _mark_ends(codes: Codes, first: int, last: int) -> int:
    """By its first and its last character. An ellipsis of three stops is no end of a sentence."""
    mark = BULLET if codes[first] in (_BULLET, _DASH) else 0
    if last - first >= 2 and codes[last] == _STOP and codes[last - 1] == _STOP and codes[last - 2] == _STOP:
        return mark | ELLIPSIS
    if codes[last] == _DOTS:
        return mark | ELLIPSIS
    return mark | ENDED if _is_one_of(codes[last], _MARKS) else mark


@compiled
def _is_one_of(code: np.uint32, known: Codes) -> bool:
    found = False
    for one in known:
        found = found or code == one
    return found
