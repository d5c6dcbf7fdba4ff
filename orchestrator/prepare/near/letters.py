"""What a character is to the comparison of texts, by code point: part of a word or not, folded to which letter.

Comes before kernels.py, which looks characters up here. From Python's own Unicode data, whose version is `UNICODE`:
another version may class new characters otherwise, so it belongs to what signatures are kept under."""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from orchestrator.prepare.near.kernels import CLASS_BITS, LETTER, MAY_COMPOSE, SEPARATOR, SPACE, UNSPACED

UNICODE = unicodedata.unidata_version

_PLANES = (range(0x40000), range(0xE0000, 0xE1000))  # the others have no letters, or nobody knows which
_UNSPACED = re.compile(
    "CJK (UNIFIED|COMPATIBILITY) IDEOGRAPH|(VERTICAL )?IDEOGRAPHIC (ITERATION|NUMBER)|HANGZHOU|HIRAGANA"
    "|(COMBINING |HALFWIDTH )?KATAKANA|HENTAIGANA|BOPOMOFO|THAI |LAO |KHMER |MYANMAR "
)
_HANGUL_VOWELS_AND_FINALS = (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))  # composed by rule, not by table
_SURROGATES = range(0xD800, 0xE000)


@cache
def letter_table() -> NDArray[np.uint32]:
    """Of every code point `folded << CLASS_BITS | may compose | class`, read-only. Takes a fifth of a second, once."""
    table = np.arange(0x110000, dtype=np.uint32)
    table <<= CLASS_BITS
    for plane in _PLANES:
        for code, category in zip(plane, map(unicodedata.category, map(chr, plane)), strict=True):
            kind = _class_of(chr(code), category)
            if kind != SEPARATOR:
                table[code] = _fold(code, category) << CLASS_BITS | kind
    table[list(_list_composing())] |= MAY_COMPOSE
    table.flags.writeable = False
    return table


def _class_of(character: str, category: str) -> int:
    if category[0] in "LMN":
        return UNSPACED if _UNSPACED.match(unicodedata.name(character, "")) else LETTER
    if character == "_":
        return LETTER
    return SPACE if character.isspace() else SEPARATOR


def _fold(code: int, category: str) -> int:
    """To one character always: what would become two, like the German sharp s, stays."""
    if category[0] != "L":
        return code
    character = chr(code)
    return next((ord(folded) for folded in (character.casefold(), character.lower()) if len(folded) == 1), code)


def _list_composing() -> Iterator[int]:
    """What texts in normal form C may not have, or only in some places: a text without any of these is in it."""
    yield from _HANGUL_VOWELS_AND_FINALS
    yield from _SURROGATES
    for plane in _PLANES:
        for code in plane:
            character = chr(code)
            if unicodedata.combining(character):
                yield code
            elif parts := unicodedata.decomposition(character):
                if not unicodedata.is_normalized("NFC", character):
                    yield code
                if not parts.startswith("<") and " " in parts:
                    yield int(parts.split()[1], 16)
