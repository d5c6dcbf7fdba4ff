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
Ints = NDArray[np.int64]


@compiled
def judge_lines(
    codes: Codes, kinds: Kinds, longest_word: int, least_words: int, ended: bool
) -> tuple[NDArray[np.uint8], Ints]:
    """For every line, as str.splitlines() cuts them: what becomes of it, and its number of sentences if it is kept."""
    num_lines = _count_lines(codes, kinds)
    fates, sentences = np.empty(num_lines, np.uint8), np.zeros(num_lines, np.int64)
    begin = 0
    for line in range(num_lines):
        end = begin
        while end < codes.size and not kinds[end] & LINE_BREAK:
            end += 1
        fates[line] = _judge_line(codes, kinds, begin, end, longest_word, least_words, ended)
        if fates[line] == KEEP:
            sentences[line] = count_sentences(codes, kinds, begin, end)
        if end + 1 < codes.size and codes[end] == _RETURN and codes[end + 1] == _NEWLINE:
            end += 1
        begin = end + 1
    return fates, sentences


@compiled
def count_sentences(codes: Codes, kinds: Kinds, begin: int, end: int) -> int:
    """A sentence ends with a mark, closing quotes or brackets after it, and whitespace or the end of the line."""
    sentences, is_open, ending = 0, False, False
    for at in range(begin, end):
        kind = kinds[at]
        if kind & SPACE:
            sentences += ending
            is_open = is_open and not ending
            ending = False
        else:
            is_open = True
            ending = kind & SENTENCE_END != 0 or (ending and _is_one_of(codes[at], _CLOSERS))
    return sentences + is_open


@compiled
def _judge_line(
    codes: Codes, kinds: Kinds, begin: int, end: int, longest_word: int, least_words: int, ended: bool
) -> int:
    """By its words, and by its last characters."""
    words, word, last, bracket = 0, 0, -1, False
    for at in range(begin, end):
        if kinds[at] & SPACE:
            word = 0
            continue
        word += 1
        words += word == 1
        if longest_word and word > longest_word:
            return DROP
        bracket = bracket or codes[at] == _SQUARE or codes[at] == _CURLY
        last = at
    if bracket:
        return LOOK
    if words < least_words or last < 0:
        return DROP
    if not ended:
        return KEEP
    ellipsis = last - begin >= 2 and codes[last] == codes[last - 1] == codes[last - 2] == _STOP
    return KEEP if _is_one_of(codes[last], _MARKS) and not ellipsis else DROP


@compiled
def _count_lines(codes: Codes, kinds: Kinds) -> int:
    lines, is_open = 0, False
    for at in range(codes.size):
        if not kinds[at] & LINE_BREAK:
            is_open = True
        elif at == 0 or codes[at] != _NEWLINE or codes[at - 1] != _RETURN:
            lines += 1
            is_open = False
    return lines + is_open


@compiled
def _is_one_of(code: np.uint32, known: Codes) -> bool:
    found = False
    for one in known:
        found = found or code == one
    return found
