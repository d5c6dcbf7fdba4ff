"""What each character is, as bits by code point: for the compiled passes of cut.py and lines.py.

Built once a process, from Python's own Unicode tables."""

import unicodedata
from functools import cache

import numpy as np
from numpy.typing import NDArray

SPACE, LETTER, DIGIT, UPPER, PUNCTUATION, SYMBOL, LINE_BREAK, SENTENCE_END = (1 << bit for bit in range(8))
# Nothing beyond is a letter, a digit, punctuation or a space: those planes hold tags, selectors and private use.
NUM_CODES = 0x40000
# What str.splitlines() breaks at; each is whitespace too.
LINE_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
SENTENCE_ENDS = ".!?…\u3002\uff01\uff1f\uff61\u061f\u06d4\u0964"  # Western, Chinese and Japanese, Arabic, Hindi
_BY_CATEGORY = {"P": PUNCTUATION, "S": SYMBOL, "L": LETTER}


@cache
def class_table() -> NDArray[np.uint8]:
    """Bits by code point. A control character counts as a symbol: it is no part of a word."""
    table = np.zeros(NUM_CODES, np.uint8)
    for code, character in enumerate(map(chr, range(NUM_CODES))):
        category = unicodedata.category(character)
        if character.isspace():
            table[code] = SPACE
        elif category == "Cc":
            table[code] = SYMBOL
        elif category == "Nd":
            table[code] = DIGIT
        elif category in ("Lu", "Lt"):
            table[code] = LETTER | UPPER
        elif category[0] in _BY_CATEGORY:
            table[code] = _BY_CATEGORY[category[0]]
    for characters, bit in ((LINE_BREAKS, LINE_BREAK), (SENTENCE_ENDS, SENTENCE_END)):
        table[[ord(character) for character in characters]] |= np.uint8(bit)
    table.flags.writeable = False
    return table
