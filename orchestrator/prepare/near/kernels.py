"""Everything about single texts that is compiled: reading characters, folding whitespace, cutting shingles, MinHash.

Used by texts.py and sign.py. Places are offsets into the bytes of all documents, `table` is letters.letter_table(), and
texts are valid UTF-8 unless said otherwise. What comes of a document depends on its own bytes alone."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.prepare.near.compiled import compiled
from orchestrator.prepare.near.documents import CHARACTERS, WORDS

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]
Words32 = NDArray[np.uint32]
Words64 = NDArray[np.uint64]

at = np.uint64  # an index of this type costs no look whether it counts from the end

SEPARATOR, SPACE, LETTER, UNSPACED = range(4)  # classes of characters; the last is letters of scripts without spaces
MAY_COMPOSE, CLASS_BITS = 4, 3
_CLASS = np.uint32(3)

_SEED = np.uint64(0xCBF29CE484222325)
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_MIXER = np.uint64(0xD6E8FEB86659FD93)
_HALF = np.uint64(32)
_BLOCK = 2048  # shingles at a time: they stay in the processor's nearest cache


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """The array as one that only may be read: to the compiler another type, and one type is compiled once."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


@compiled
def mix(x: np.uint64) -> np.uint64:
    """A permutation of the 64-bit numbers after which every bit depends on every bit."""
    x ^= x >> _HALF
    x *= _MIXER
    x ^= x >> _HALF
    x *= _MIXER
    return x ^ (x >> _HALF)


# ---- characters ----


@compiled
def read_byte(data: Bytes, place: int) -> int:
    return int(np.int64(data[at(place)]))  # signed: the compiler makes a float of unsigned and signed together


@compiled
def read_character(data: Bytes, place: int) -> tuple[int, int]:
    """The code point at `place`, and the place after it."""
    lead = read_byte(data, place)
    if lead < 0x80:
        return lead, place + 1
    second = read_byte(data, place + 1) & 63
    if lead < 0xE0:
        return (lead & 31) << 6 | second, place + 2
    third = read_byte(data, place + 2) & 63
    if lead < 0xF0:
        return (lead & 15) << 12 | second << 6 | third, place + 3
    return (lead & 7) << 18 | second << 12 | third << 6 | (read_byte(data, place + 3) & 63), place + 4


@compiled
def find_largest(data: Bytes, begin: int, end: int) -> np.uint8:
    """The largest byte: below 0x80 the text is ASCII, below 0xE0 all its characters are below U+0800."""
    text = data[begin:end]
    largest = np.uint8(0)
    for i in range(text.size):
        largest = max(largest, text[i])
    return largest


@compiled
def is_surely_composed(data: Bytes, begin: int, end: int, table: Words32) -> bool:
    """Whether any bytes are valid UTF-8 in normal form C; where this says no they may still be."""
    if find_largest(data, begin, end) < 0x80:
        return True
    place = begin
    while place < end:
        lead = data[at(place)]
        if lead < 0x80:
            place += 1
            continue
        size = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
        if lead < 0xC2 or lead > 0xF4 or place + size > end:
            return False
        for k in range(place + 1, place + size):
            if data[at(k)] & 0xC0 != 0x80:
                return False
        code, place = read_character(data, place)
        if (size == 3 and code < 0x800) or (size == 4 and code < 0x10000) or code > 0x10FFFF:
            return False
        if table[at(code)] & MAY_COMPOSE:
            return False
    return True


@compiled
def find_unsure(data: Bytes, begins: Places, ends: Places, table: Words32) -> NDArray[np.bool_]:
    """Documents that is_surely_composed does not vouch for."""
    unsure = np.empty(begins.size, np.bool_)
    for i in range(begins.size):
        unsure[i] = not is_surely_composed(data, begins[i], ends[i], table)
    return unsure


# ---- whitespace ----


@compiled
def fold_spaces(data: Bytes, begin: int, end: int, table: Words32, out: Bytes) -> int:
    """Write the text with one space for every run of whitespace and none at the ends; how many bytes that is."""
    size, place, gap = 0, begin, 1  # gap: nothing but whitespace since the last word, or no word yet
    while place < end:
        byte = data[at(place)]
        if byte < 0x80:
            space = int((table[at(byte)] & _CLASS) == SPACE)
            out[at(size)] = 32 if space else byte
            size += 1 - (space & gap)
            place += 1
        else:
            code, after = read_character(data, place)
            space = int((table[at(code)] & _CLASS) == SPACE)
            if space:
                out[at(size)] = 32
                size += 1 - gap
            else:
                for k in range(place, after):
                    out[at(size)] = data[at(k)]
                    size += 1
            place = after
        gap = space
    return size - 1 if gap and size > 0 else size


@compiled
def fold_all_spaces(data: Bytes, begins: Places, ends: Places, table: Words32, out: Bytes) -> Places:
    """Write the documents one after another, folded; where each ends. `out` has room for all their bytes."""
    folded = np.empty(begins.size, np.int64)
    size = 0
    for i in range(begins.size):
        size += fold_spaces(data, begins[i], ends[i], table, out[size:])
        folded[i] = size
    return folded


# ---- shingles ----


@compiled
def choose_kind(data: Bytes, begin: int, end: int, table: Words32) -> int:
    """CHARACTERS if more than half of the letters are of scripts without spaces, else WORDS."""
    if find_largest(data, begin, end) < 0xE0:  # the first letter of a script without spaces is U+0E01
        return WORDS
    letters, unspaced, place = 0, 0, begin
    while place < end:
        code, place = read_character(data, place)
        kind = table[at(code)] & _CLASS
        letters += kind >= LETTER
        unspaced += kind == UNSPACED
    return CHARACTERS if 2 * unspaced > letters else WORDS


@compiled
def take_words(
    data: Bytes,
    place: int,
    end: int,
    table: Words32,
    units: Words64,
    filled: int,
    word: np.uint64,
    before: np.uint32,
) -> tuple[int, int, np.uint64, np.uint32]:
    """Put the hashes of words behind the `filled` first units, until the units are full or the text ends.

    No branch depends on where words end: it could not be foreseen. `word` and `before` are the word so far and the
    class of the character before, to go on from."""
    room = units.size - 1  # one is left for the word at the end
    while place < end and filled < room:
        code, place = read_character(data, place)
        entry = table[at(code)]
        kind = entry & _CLASS
        goes_on = (before == LETTER) & (kind == LETTER)
        units[at(filled)] = word
        filled += int((before >= LETTER) & (not goes_on))
        word = (word if goes_on else _SEED) * _FACTOR + np.uint64(entry >> CLASS_BITS)
        before = kind
    if place == end and before >= LETTER:
        units[at(filled)] = word
        filled += 1
    return place, filled, word, before


@compiled
def take_characters(data: Bytes, place: int, end: int, table: Words32, units: Words64, filled: int) -> tuple[int, int]:
    """Put letters behind the `filled` first units, until the units are full or the text ends."""
    while place < end and filled < units.size:
        code, place = read_character(data, place)
        entry = table[at(code)]
        units[at(filled)] = entry >> CLASS_BITS
        filled += int((entry & _CLASS) >= LETTER)
    return place, filled


@compiled
def slide_window(units: Words64, mixed: int, filled: int, width: int) -> int:
    """Turn units into hashes of `width` in a row, from the front; how many. The last `width - 1` units stay.

    The first `mixed` units have been through mix() already: they were left from the last time."""
    for i in range(mixed, filled):
        units[i] = mix(units[i])
    if filled < width:
        return 0
    top, window = np.uint64(1), np.uint64(0)
    for i in range(width - 1):
        top *= _FACTOR
        window = window * _FACTOR + units[i]
    for first in range(filled - width + 1):
        window = window * _FACTOR + units[first + width - 1]
        leaving = units[first] * top
        units[first] = mix(window)
        window -= leaving
    return filled - width + 1


@compiled
def cut_block(
    data: Bytes,
    place: int,
    end: int,
    table: Words32,
    kind: int,
    width: int,
    units: Words64,
    left: int,
    word: np.uint64,
    before: np.uint32,
) -> tuple[int, int, int, np.uint64, np.uint32]:
    """Put the next shingles of a text at the front of `units`, where the last `left` units of the block before are.

    Gives the place after them, how many shingles and how many units there are, and a word that goes on."""
    if kind == WORDS:
        place, filled, word, before = take_words(data, place, end, table, units, left, word, before)
    else:
        place, filled = take_characters(data, place, end, table, units, left)
    return place, slide_window(units, left, filled, width), filled, word, before


@compiled
def list_shingles(data: Bytes, begins: Places, ends: Places, table: Words32, widths: Places, flat: Words64) -> Places:
    """Write the shingles of the documents one after another, as often as they occur; where each ends.

    A document needs half as many places as it has bytes, and two: words in ASCII begin two bytes apart, letters of
    scripts without spaces have three bytes and are more than half of all where every letter is a unit."""
    listed = np.empty(begins.size, np.int64)
    total = 0
    for i in range(begins.size):
        kind = choose_kind(data, begins[i], ends[i], table)
        room = flat[total : total + (ends[i] - begins[i]) // 2 + 2]
        total += cut_block(data, begins[i], ends[i], table, kind, widths[kind], room, 0, _SEED, np.uint32(SEPARATOR))[1]
        listed[i] = total
    return listed


@compiled
def drop_repeats(flat: Words64, ends: Places) -> Places:
    """Move together what differs within each of the sorted lists that end at `ends`; where each list ends then."""
    kept = np.empty(ends.size, np.int64)
    size, place = 0, 0
    for i in range(ends.size):
        begin = place
        while place < ends[i]:
            if place == begin or flat[place] != flat[place - 1]:
                flat[size] = flat[place]
                size += 1
            place += 1
        kept[i] = size
    return kept


# ---- MinHash ----


@compiled
def lower_minima(shingles: Words64, factors: Words32, terms: Words32, block: Words32, minima: Words32) -> None:
    """Take shingles into account. `block` is room for as many as there may be shingles."""
    for i in range(shingles.size):
        block[i] = np.uint32(shingles[i] >> _HALF)
    for k in range(minima.size):
        factor, term, least = factors[k], terms[k], minima[k]
        for i in range(shingles.size):
            least = min(least, np.uint32(factor * block[i] + term))
        minima[k] = least


@compiled
def sign_text(
    data: Bytes,
    begin: int,
    end: int,
    table: Words32,
    kind: int,
    width: int,
    factors: Words32,
    terms: Words32,
    units: Words64,
    block: Words32,
    minima: Words32,
) -> bool:
    """Leave the text's minima; no if it has no shingle. Memory is that of a block, however long the text is."""
    minima[:] = ~np.uint32(0)
    place, left, word, before, signed = begin, 0, _SEED, np.uint32(SEPARATOR), False
    while place < end:
        place, count, filled, word, before = cut_block(data, place, end, table, kind, width, units, left, word, before)
        lower_minima(units[:count], factors, terms, block, minima)
        signed = signed or count > 0
        left = filled - count
        for i in range(left):
            units[i] = units[count + i]
    return signed


@compiled
def write_keys(minima: Words32, kind: int, keys: Words32) -> None:
    """Of every band a hash of its minima and of the kind; never 0."""
    rows = minima.size // keys.size
    for band in range(keys.size):
        key = np.uint64(kind)
        for row in range(band * rows, (band + 1) * rows):
            key = (key ^ np.uint64(minima[row])) * _FACTOR
            key ^= key >> _HALF
        keys[band] = max(np.uint32(mix(key) >> _HALF), np.uint32(1))


@compiled
def sign_all(
    data: Bytes,
    begins: Places,
    ends: Places,
    table: Words32,
    widths: Places,
    factors: Words32,
    terms: Words32,
    kinds: Bytes,
    keys: Words32,
    sketch: Bytes,
) -> None:
    """Fill in kinds, keys and sketches; those of exempt documents stay as they are."""
    units, block = np.empty(_BLOCK, np.uint64), np.empty(_BLOCK, np.uint32)
    minima = np.empty(factors.size, np.uint32)
    for i in range(begins.size):
        kind = choose_kind(data, begins[i], ends[i], table)
        if sign_text(data, begins[i], ends[i], table, kind, widths[kind], factors, terms, units, block, minima):
            kinds[i] = kind
            write_keys(minima, kind, keys[i])
            for k in range(minima.size):
                sketch[i, k] = np.uint8(minima[k])
