"""Compiled passes over the code points of a text: its words, and what its characters are. text.py calls them once.

A word is what stands between whitespace, and is known by a 64-bit hash: that two of a document's words share one has a
chance of 10^-12 in a million words."""

import numpy as np
from numpy.typing import NDArray

from orchestrator.prepare.clean.characters import LETTER, NUM_CODES, PUNCTUATION, SPACE, SYMBOL
from orchestrator.prepare.near.compiled import compiled

Codes = NDArray[np.uint32 | np.uint8]
Kinds = NDArray[np.uint8]
_SEED, _FACTOR = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xFF51AFD7ED558CCD)
_SHIFT = np.uint64(32)


@compiled
def look_up_kinds(codes: Codes, table: Kinds) -> Kinds:
    """What each character is, by the table of characters.py."""
    kinds = np.zeros(codes.size, np.uint8)
    for at in range(codes.size):
        if codes[at] < NUM_CODES:
            kinds[at] = table[codes[at]]
    return kinds


@compiled
def cut_words(codes: Codes, kinds: Kinds) -> tuple[NDArray[np.uint64], NDArray[np.int32], NDArray[np.int64]]:
    """Hash and length of every word; and four counts: words with a letter, words that are not only punctuation and
    symbols, the characters of those, and the characters of the longest word."""
    most = codes.size // 2 + 1
    hashes, lengths, counts = np.empty(most, np.uint64), np.empty(most, np.int32), np.zeros(4, np.int64)
    num, at = 0, 0
    while at < codes.size:
        if kinds[at] & SPACE:
            at += 1
            continue
        begin, code, seen, only_symbols = at, _SEED, np.uint8(0), True
        while at < codes.size:
            kind = kinds[at]
            if kind & SPACE:
                break
            code = (code ^ np.uint64(codes[at])) * _FACTOR
            seen |= kind
            only_symbols = only_symbols and kind & (PUNCTUATION | SYMBOL) != 0
            at += 1
        hashes[num] = (code ^ (code >> _SHIFT)) * _FACTOR
        hashes[num] ^= hashes[num] >> _SHIFT
        lengths[num] = at - begin
        num += 1
        counts[0] += seen & LETTER != 0
        if not only_symbols:
            counts[1] += 1
            counts[2] += at - begin
        counts[3] = max(counts[3], at - begin)
    return hashes[:num], lengths[:num], counts


@compiled
def count_bits(kinds: Kinds) -> NDArray[np.int64]:
    """How many characters have each bit of characters.py."""
    of_kind = np.zeros(256, np.int64)
    for kind in kinds:
        of_kind[kind] += 1
    counts = np.zeros(8, np.int64)
    for bit in range(8):
        for kind in range(256):
            if kind >> bit & 1:
                counts[bit] += of_kind[kind]
    return counts


@compiled
def count_known(hashes: NDArray[np.uint64], known: NDArray[np.uint64]) -> int:
    """How many of the words in `known` occur."""
    found = np.zeros(known.size, np.bool_)
    for word in hashes:
        for place in range(known.size):
            if word == known[place]:
                found[place] = True
    return int(found.sum())
