"""Compiled: how many characters of a document stand in repeated runs of words (n-grams). repetition.py judges by it.

Runs are compared by a 64-bit hash of their words' hashes. Time is linear in the words, for every n asked."""

import numpy as np
from numpy.typing import NDArray

from orchestrator.prepare.near.compiled import compiled

Hashes = NDArray[np.uint64]
Ints = NDArray[np.int64]
Shorts = NDArray[np.int32]
_BASE, _SPREAD = np.uint64(0x9DDFEA08EB382D69), np.uint64(0x9E3779B97F4A7C15)


@compiled
def measure_ngrams(hashes: Hashes, lengths: Shorts, top: Ints, duplicate: Ints) -> tuple[Ints, Ints]:
    """Characters of the most frequent n-gram for each n of `top`, and in duplicate n-grams for each of `duplicate`.

    An n-gram that occurs once is no repetition, and where none of n words repeats, none of more does."""
    up_to = np.zeros(lengths.size + 1, np.int64)
    prefixes = np.zeros(hashes.size + 1, np.uint64)
    for i in range(hashes.size):
        up_to[i + 1] = up_to[i] + lengths[i]
        prefixes[i + 1] = prefixes[i] * _BASE + hashes[i]
    size = 16
    while size < 2 * hashes.size:
        size *= 2
    keys, first, count = np.empty(size, np.uint64), np.empty(size, np.int32), np.empty(size, np.int32)
    of_top, of_duplicate = np.zeros(top.size, np.int64), np.zeros(duplicate.size, np.int64)
    unique_from = hashes.size + 1  # no n-gram of this many words repeats
    for i in range(top.size):
        if top[i] < unique_from:
            of_top[i] = _measure_top(prefixes, up_to, top[i], keys, first, count)
            if of_top[i] == 0:
                unique_from = top[i]
    for i in range(duplicate.size):
        if duplicate[i] < unique_from:
            of_duplicate[i] = _measure_duplicate(prefixes, up_to, duplicate[i], keys)
            if of_duplicate[i] == 0:
                unique_from = duplicate[i]
    return of_top, of_duplicate


@compiled
def _measure_top(prefixes: Hashes, up_to: Ints, n: int, keys: Hashes, first: Shorts, count: Shorts) -> int:
    """Occurrences times characters, with the spaces inside; of several equally frequent the first counts."""
    keys[:] = 0
    power = _power(n)
    best, where = 1, -1
    for i in range(prefixes.size - n):
        key = _hash_run(prefixes, i, n, power)
        slot = _find_slot(keys, key)
        if keys[slot] == 0:
            keys[slot], first[slot], count[slot] = key, i, 1
            continue
        count[slot] += 1
        if count[slot] > best or (count[slot] == best and first[slot] < where):
            best, where = count[slot], first[slot]
    return 0 if where < 0 else best * (up_to[where + n] - up_to[where] + n - 1)


@compiled
def _measure_duplicate(prefixes: Hashes, up_to: Ints, n: int, keys: Hashes) -> int:
    """Characters, without spaces, of n-grams that occurred before; each word counts once."""
    keys[:] = 0
    power = _power(n)
    characters, i = 0, 0
    while i < prefixes.size - n:
        key = _hash_run(prefixes, i, n, power)
        slot = _find_slot(keys, key)
        if keys[slot] == 0:
            keys[slot] = key
            i += 1
        else:
            characters += up_to[i + n] - up_to[i]
            i += n
    return characters


@compiled
def _power(n: int) -> np.uint64:
    power = np.uint64(1)
    for _ in range(n):
        power *= _BASE
    return power


@compiled
def _hash_run(prefixes: Hashes, i: int, n: int, power: np.uint64) -> np.uint64:
    """Of words i to i + n; never 0, which marks an empty slot."""
    code = prefixes[i + n] - prefixes[i] * power
    return code if code != 0 else np.uint64(1)


@compiled
def _find_slot(keys: Hashes, key: np.uint64) -> int:
    """Where `key` is, or is to be put."""
    mask = keys.size - 1
    slot = int((key * _SPREAD) >> np.uint64(33)) & mask
    while keys[slot] != 0 and keys[slot] != key:
        slot = (slot + 1) & mask
    return slot
