"""Signatures and shingle sets of texts. Comes after texts.py; match.py compares signatures, decide.py sets.

A signature and a set depend on the text and the rules alone. The hash functions of MinHash are `factor * x + term` on
32 bits with odd factors: the shingles are well-mixed hashes, for which these meet theory (tests measure it)."""

import numpy as np
from numpy.typing import NDArray

from orchestrator.prepare.near.documents import NearRules, Sets, Signatures, Texts
from orchestrator.prepare.near.kernels import drop_repeats, list_shingles, read_only, sign_all
from orchestrator.prepare.near.letters import letter_table
from orchestrator.prepare.near.texts import CHUNK_BYTES, group_documents


def sign_texts(texts: Texts, rules: NearRules) -> Signatures:
    """Kind, band keys and sketch of every document. Needs no memory beyond these, however long a document is."""
    count, minima = len(texts), rules.bands * rules.rows
    found = Signatures(
        np.zeros(count, np.uint8), np.zeros((count, rules.bands), np.uint32), np.zeros((count, minima), np.uint8)
    )
    factors, terms = draw_hashes(minima)
    documents = read_only(texts.data), read_only(texts.begins), read_only(texts.ends)
    sign_all(*documents, letter_table(), _widths(rules), factors, terms, *found)
    return found


def cut_sets(texts: Texts, rules: NearRules, which: NDArray[np.int64] | None = None) -> Sets:
    """The sets of shingles of all documents, or of those that `which` names; an exempt one has none.

    Takes the memory of the sets twice, and at most four bytes for every byte of CHUNK_BYTES or of a longer document."""
    begins = texts.begins if which is None else texts.begins[which]
    ends = texts.ends if which is None else texts.ends[which]
    sizes = ends - begins
    flat, set_sizes = [np.empty(0, np.uint64)], [np.zeros(1, np.int64)]
    for some in group_documents(sizes, CHUNK_BYTES):
        room = np.empty((sizes[some] // 2 + 2).sum(), np.uint64)
        documents = read_only(texts.data), read_only(begins[some]), read_only(ends[some])
        listed = list_shingles(*documents, letter_table(), _widths(rules), room)
        for part in np.split(room, listed)[:-1]:
            part.sort()
        kept = drop_repeats(room, listed)
        flat.append(room[: kept[-1]].copy())
        set_sizes.append(np.diff(kept, prepend=0))
    return Sets(np.concatenate(flat), np.cumsum(np.concatenate(set_sizes)))


def draw_hashes(count: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Factors and terms of so many hash functions, the same ever after: the sequence SplitMix64, upper halves."""
    x = np.arange(1, 2 * count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    drawn = ((x ^ (x >> np.uint64(31))) >> np.uint64(32)).astype(np.uint32)
    return read_only(drawn[:count] | np.uint32(1)), read_only(drawn[count:])


def _widths(rules: NearRules) -> NDArray[np.int64]:
    """By kind; no document is cut as an exempt one."""
    return read_only(np.array([0, rules.words, rules.characters]))
