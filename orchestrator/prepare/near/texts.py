"""Texts as they are compared: UTF-8 in normal form C, left where they lie if they are so already; and their exact hash.

Comes after the shard is mapped and before sign.py. Only what had to be normalised is copied."""

import re
import unicodedata
from collections.abc import Iterator
from mmap import mmap

import numpy as np
import xxhash
from numpy.typing import NDArray

from orchestrator.prepare.near.documents import Texts
from orchestrator.prepare.near.kernels import find_unsure, fold_all_spaces, read_only
from orchestrator.prepare.near.letters import letter_table

PIECE_BYTES = 1 << 20  # of a long text that is normalised at a time
CHUNK_BYTES = 1 << 22  # of documents that are worked on at a time, unless one alone is longer
VALID = -1
_ASCII = re.compile(rb"[\x00-\x7f]")


def canonical_texts(
    data: mmap | bytes | memoryview, begins: NDArray[np.int64], sizes: NDArray[np.int64]
) -> tuple[Texts, NDArray[np.int64]]:
    """The documents, and of each the place of its first wrong byte, or VALID. One with a wrong byte is given as empty.

    The texts' array is that of `data`; if some document had to be normalised, a copy with all such ones behind it."""
    view = np.frombuffer(data, np.uint8)
    begins, ends = begins.copy(), begins + sizes
    wrong = np.full(len(begins), VALID, np.int64)
    normalised: list[bytes] = []
    size = len(view)
    for i in np.flatnonzero(find_unsure(read_only(view), read_only(begins), read_only(ends), letter_table())):
        try:
            text = _normalise(view[begins[i] : ends[i]].data)
        except UnicodeDecodeError as error:
            wrong[i] = error.start
            ends[i] = begins[i]
            continue
        if text is not None:
            normalised.append(text)
            begins[i], ends[i] = size, size + len(text)
            size += len(text)
    if normalised:
        view = np.concatenate([view, *(np.frombuffer(text, np.uint8) for text in normalised)])
    return Texts(view, begins, ends), wrong


def hash_texts(texts: Texts) -> NDArray[np.uint64]:
    """xxh3-128 [n, 2] (high, low) of each text with its runs of whitespace folded to one space and none at its ends."""
    data, begins, ends = read_only(texts.data), read_only(texts.begins), read_only(texts.ends)
    digests = []
    for some in group_documents(texts.ends - texts.begins, CHUNK_BYTES):
        out = np.empty((ends[some] - begins[some]).sum(), np.uint8)
        folded = fold_all_spaces(data, begins[some], ends[some], letter_table(), out).tolist()
        view = out.data
        digests += [xxhash.xxh3_128_digest(view[a:b]) for a, b in zip([0, *folded], folded, strict=False)]
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64).reshape(-1, 2)


def group_documents(sizes: NDArray[np.int64], most_bytes: int) -> Iterator[slice]:
    """Neighbours that together have at most so many bytes; a longer document stands alone."""
    ends = np.cumsum(sizes)
    first = 0
    while first < len(sizes):
        before = ends[first] - sizes[first]
        last = max(first + 1, int(np.searchsorted(ends, before + most_bytes, side="right")))
        yield slice(first, last)
        first = last


def _normalise(text: memoryview) -> bytes | None:
    """In normal form C, or None if it is so already. Raises UnicodeDecodeError as decoding all of it at once would."""
    parts: list[memoryview | bytes] = []
    changed = False
    for begin, end in _cut_pieces(text):
        try:
            piece = str(text[begin:end], "utf-8")
        except UnicodeDecodeError as error:
            error.start += begin
            raise
        composed = unicodedata.normalize("NFC", piece)
        same = composed == piece
        parts.append(text[begin:end] if same else composed.encode())
        changed |= not same
    return b"".join(parts) if changed else None


def _cut_pieces(text: memoryview) -> Iterator[tuple[int, int]]:
    """Cut before ASCII characters only: these never combine with what stands before them, nor stand inside another."""
    begin = 0
    while begin < len(text):
        found = _ASCII.search(text, begin + PIECE_BYTES)
        end = found.start() if found else len(text)
        yield begin, end
        begin = end
