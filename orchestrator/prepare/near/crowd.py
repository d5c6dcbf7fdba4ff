"""Decides many documents that are alike (pages of one template) without comparing every two.

Comes after merge.py; what it says is what comparing every two would say. The kept documents are found by their
shingles. With a document's shingles in a fixed order, the rarest first, two documents of sizes a and b can be at or
above threshold t only if they share a shingle at some place p of one and q of the other with a - p and b - q both at
least (a + b) * t / (1 + t): all they share comes from there on. So a shingle at place p leads to its document only for
partners up to a size, its *reach*. The shingles that all pages of a template have in common stand last and reach no
page when they alone make none alike.

The documents that have a shingle form a list in the order of their numbers: a chain of blocks, each twice the size
of the one before and each a binary tree of greatest reaches. So the next one whose reach suffices takes logarithmic
time, the smallest number comes first, and a search ends at the first one that is alike."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.prepare.near.bands import least_equal
from orchestrator.prepare.near.compare import measure_similarity, share_key, sketches_agree
from orchestrator.prepare.near.compiled import compiled, enlarge
from orchestrator.prepare.near.documents import Sets
from orchestrator.prepare.near.kernels import read_only
from orchestrator.prepare.near.match import UPPER

MOST_COUNTED = 0xFFFF  # what two bytes hold
RARITIES = 17  # binary digits of a count, 0 to 16
MOST_LISTS = 1 << 26  # six bytes each
EPSILON = 1e-6  # shingles; makes a reach too long rather than too short where floats round


class Verdicts(NamedTuple):
    """Of n documents, and what they cost."""

    partner: NDArray[np.int64]  # number of the kept, earlier document that this one duplicates, -1 if it stays
    score: NDArray[np.float64]  # their exact similarity, 0 if it stays
    checks: int  # exact similarities computed


class _Crowd(NamedTuple):
    """Row by row the members."""

    flat: NDArray[np.uint64]
    ends: NDArray[np.int64]
    keys: NDArray[np.uint32]
    sketches: NDArray[np.uint8]
    counts: NDArray[np.uint16]  # [lists] about how many members have a shingle
    smallest: int  # shingles of a member
    threshold: float
    least: int  # bytes of two sketches that must be equal


class _Index(NamedTuple):
    """Lists of kept members. A shingle's list is named by its lowest bits; that others may share it costs time only.

    A block with room for c members at `base` has their reaches as the leaves of a tree at tree[base + 1 : base + 2c],
    and of member i its row and a mark of the shingle at entries[base + 2i : base + 2i + 2]."""

    tails: NDArray[np.int32]  # [lists] the last block, whose next one is the first; -1 if there is none
    blocks: NDArray[np.int64]  # [blocks, 4] base, room, used, next
    tree: NDArray[np.int32]
    entries: NDArray[np.int32]
    ends: NDArray[np.int64]  # [2] blocks and cells in use


def decide_crowd(
    numbers: NDArray[np.int64],
    sets: Sets,
    keys: NDArray[np.uint32],
    sketches: NDArray[np.uint8],
    own: int,
    threshold: float,
    *,
    among_own: bool = True,
) -> Verdicts:
    """Verdicts of the members, in the order of `numbers` (ascending); sets, keys and sketches are theirs, row by row.
    Those numbered below `own` are known to be kept. Not `among_own`: own ones duplicate only those."""
    flat, ends, keys, sketches = read_only(sets.flat), read_only(sets.ends), read_only(keys), read_only(sketches)
    lists = 1 << max(10, min(int(ends[-1] // 4).bit_length(), MOST_LISTS.bit_length() - 1))
    least = least_equal(threshold, sketches.shape[1])
    counts = _count_shingles(flat, lists)
    crowd = _Crowd(flat, ends, keys, sketches, counts, int(np.diff(ends).min()), threshold, least)
    partner, score, checks = _decide(crowd, int(np.searchsorted(numbers, own)), among_own)
    partner[partner >= 0] = numbers[partner[partner >= 0]]
    return Verdicts(partner, score, checks)


@compiled
def _count_shingles(flat: NDArray[np.uint64], lists: int) -> NDArray[np.uint16]:
    counts = np.zeros(lists, np.uint16)
    for i in range(flat.size):
        place = flat[i] & np.uint64(lists - 1)
        if counts[place] < MOST_COUNTED:
            counts[place] += 1
    return counts


@compiled
def _decide(crowd: _Crowd, own: int, among_own: bool) -> tuple[NDArray[np.int64], NDArray[np.float64], int]:
    """Row after row: its partner's row, the similarity; and the exact checks of all."""
    rows = crowd.ends.size - 1
    index = _Index(
        np.full(crowd.counts.size, -1, np.int32),
        np.empty((1024, 4), np.int64),
        np.empty(4096, np.int32),
        np.empty(4096, np.int32),
        np.zeros(2, np.int64),
    )
    partner, score, checks = np.full(rows, -1, np.int64), np.zeros(rows), 0
    seen = np.full(rows, -1, np.int32)  # by which member each one was looked at last
    for row in range(rows):
        ordered = _order_shingles(crowd.flat[crowd.ends[row] : crowd.ends[row + 1]], crowd.counts)
        if row >= own:
            partner[row], score[row], done = _find_partner(crowd, index, row, ordered, seen)
            checks += done
        if partner[row] < 0 and (among_own or row < own):
            index = _add_member(crowd, index, row, ordered)
    return partner, score, checks


@compiled
def _order_shingles(shingles: NDArray[np.uint64], counts: NDArray[np.uint16]) -> NDArray[np.uint64]:
    """The rarest first, in steps of two, else as they are. Any order that is the same for all documents is exact."""
    rarity = np.empty(shingles.size, np.uint8)
    begins = np.zeros(RARITIES + 1, np.int64)
    for i in range(shingles.size):
        count, bits = counts[shingles[i] & np.uint64(counts.size - 1)], 0
        while count:
            count >>= 1
            bits += 1
        rarity[i] = bits
        begins[bits + 1] += 1
    for bits in range(RARITIES):
        begins[bits + 1] += begins[bits]
    ordered = np.empty(shingles.size, np.uint64)
    for i in range(shingles.size):
        ordered[begins[rarity[i]]] = shingles[i]
        begins[rarity[i]] += 1
    return ordered


@compiled
def _reach(left: int, size: int, threshold: float) -> int:
    """The size of the largest partner for which it is enough to share the `left` last of `size` shingles."""
    return int((left + EPSILON) * (1 + threshold) / threshold) - size


@compiled
def _find_partner(
    crowd: _Crowd, index: _Index, row: int, ordered: NDArray[np.uint64], seen: NDArray[np.int32]
) -> tuple[int, float, int]:
    """The row of the first kept member that is alike (-1: none), their similarity, exact checks made."""
    size = ordered.size
    best, score, checks = row, 0.0, 0
    for place in range(size):
        largest = _reach(size - place, size, crowd.threshold)
        if largest < crowd.smallest:
            break
        name, mark = ordered[place] & np.uint64(crowd.counts.size - 1), np.int32(ordered[place] >> UPPER)
        tail = index.tails[name] if crowd.counts[name] > 1 else -1  # else no other member has it
        first = index.blocks[tail, 3] if tail >= 0 else -1
        block, i = _find_entry(index, tail, first, 0, size)
        while block >= 0:
            cell = index.blocks[block, 0] + 2 * i
            k = index.entries[cell]
            if k >= best:
                break
            if index.entries[cell + 1] == mark and seen[k] != row and crowd.ends[k + 1] - crowd.ends[k] <= largest:
                seen[k] = row
                if share_key(crowd.keys, row, k) and sketches_agree(crowd.sketches, row, k, crowd.least):
                    checks += 1
                    similarity = measure_similarity(crowd.flat, crowd.ends, row, k)
                    if similarity >= crowd.threshold:
                        best, score = k, similarity
            block, i = _find_entry(index, tail, block, i + 1, size)
    return best if best < row else -1, score, checks


@compiled
def _find_entry(index: _Index, tail: int, block: int, begin: int, size: int) -> tuple[int, int]:
    """Block and place of the next entry, from place `begin` of a block on, that reaches this size; block -1: none."""
    while block >= 0:
        base, room = index.blocks[block, 0], index.blocks[block, 1]
        place = _find_place(index.tree, base, room, begin, size)
        if place < room:
            return block, place
        block = -1 if block == tail else index.blocks[block, 3]
        begin = 0
    return -1, 0


@compiled
def _find_place(tree: NDArray[np.int32], base: int, room: int, begin: int, least: int) -> int:
    """The first document of a block from `begin` on that reaches partners of size `least`, `room` if none does."""
    if begin >= room:
        return room
    node = room + begin
    while tree[base + node] < least:
        while node & 1:
            node >>= 1
        if node == 0:
            return room
        node += 1
    while node < room:
        node *= 2
        if tree[base + node] < least:
            node += 1
    return node - room


@compiled
def _add_member(crowd: _Crowd, index: _Index, row: int, ordered: NDArray[np.uint64]) -> _Index:
    size = ordered.size
    for place in range(size):
        largest = _reach(size - place, size, crowd.threshold)
        if largest < crowd.smallest:
            break
        name = ordered[place] & np.uint64(crowd.counts.size - 1)
        if crowd.counts[name] > 1:
            tail = index.tails[name]
            if tail < 0 or index.blocks[tail, 2] == index.blocks[tail, 1]:
                index = _open_block(index, name)
                tail = index.tails[name]
            base, room, used = index.blocks[tail, 0], index.blocks[tail, 1], index.blocks[tail, 2]
            index.entries[base + 2 * used], index.entries[base + 2 * used + 1] = row, np.int32(ordered[place] >> UPPER)
            node = room + used
            while node and index.tree[base + node] < largest:
                index.tree[base + node] = largest
                node >>= 1
            index.blocks[tail, 2] = used + 1
    return index


@compiled
def _open_block(index: _Index, name: int) -> _Index:
    """Appends an empty block, twice the size of the last, to a list; the index moves to larger arrays where it must."""
    tails, blocks, tree, entries, ends = index
    tail, block, base = tails[name], ends[0], ends[1]
    room = 1 if tail < 0 else 2 * blocks[tail, 1]
    if block == len(blocks):
        blocks = enlarge(blocks, 2 * block)
    if base + 2 * room > tree.size:
        cells = 2 * (tree.size + room)
        tree, entries = enlarge(tree, cells), enlarge(entries, cells)
    tree[base : base + 2 * room] = -1
    blocks[block, 0], blocks[block, 1], blocks[block, 2] = base, room, 0
    blocks[block, 3] = block if tail < 0 else blocks[tail, 3]
    if tail >= 0:
        blocks[tail, 3] = block
    tails[name] = block
    ends[0], ends[1] = block + 1, base + 2 * room
    return _Index(tails, blocks, tree, entries, ends)
