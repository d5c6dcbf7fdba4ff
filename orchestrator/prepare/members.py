"""The members that are fed of each sample of a shard: whether they are there, their size, and their checksum.

Beside text.py, for samples that are fed as they are. Decoding comes while training: bytes that cannot be decoded are a
hole there, and cleaning (which decodes) may drop them here."""

from collections.abc import Sequence
from mmap import mmap
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.words import ShardRef
from orchestrator.data.ordering.ledger import fold_checksums, join_checksums, sum_bytes
from orchestrator.data.shards.index import MemberPlaces, ShardIndex
from orchestrator.prepare.drops import Drop, refuse_drops
from orchestrator.prepare.labels import find_bad_rows
from orchestrator.prepare.rules import Rules
from orchestrator.prepare.text import places_left

Fields = Sequence[tuple[str, Sequence[str]]]  # a field's name, and the suffixes its member may have


class Fed(NamedTuple):
    """What is fed of every sample of a shard; zeros where it is dropped."""

    drops: list[Drop]
    checksums: NDArray[np.uint64]  # a row of two numbers each
    sizes: NDArray[np.int64]


def check_members(data: mmap | bytes, index: ShardIndex, fields: Fields) -> Fed:
    found = [index.find_members(suffixes) for _, suffixes in fields]
    bad = index.bad()
    drops = [Drop(place, "bad sample", why) for place, why in enumerate(bad) if why is not None]
    usable = np.array([why is None for why in bad], bool)
    for (name, suffixes), members in zip(fields, found, strict=True):
        for place in np.flatnonzero(usable & (members.suffix < 0)).tolist():
            drops.append(Drop(place, "missing member", f"no member {_list(suffixes)} for field {name}"))
            usable[place] = False
    checksums = np.zeros((len(index), 2), np.uint64)
    view = memoryview(data)
    checksums[usable] = fold_checksums([_hash_members(view, members, usable) for members in found])
    sizes = np.where(usable, sum(members.size for members in found), 0)
    return Fed(sorted(drops, key=lambda drop: drop.place), checksums, sizes)


def judge_alone(
    data: mmap | bytes, index: ShardIndex, shard: ShardRef, rules: Rules, drops: Sequence[Drop]
) -> list[Drop]:
    """All that is to be said against samples that are fed as they are, each by itself; `drops` is what is known."""
    drops = list(drops)
    if rules.clean:
        from orchestrator.prepare.cleaning import judge_members  # compiled code, which not everybody needs

        drops += judge_members(data, index, rules, places_left(len(index), drops))
    if rules.rows is not None:
        bad = find_bad_rows(data, index, rules.rows, places_left(len(index), drops))
        refuse_drops(shard, index, bad, rules.on_bad, "data.table")
        drops += bad
    return sorted(drops, key=lambda drop: drop.place)


def _hash_members(view: memoryview, members: MemberPlaces, usable: NDArray[np.bool_]) -> NDArray[np.uint64]:
    begins = members.begin[usable]
    extents = zip(begins.tolist(), (begins + members.size[usable]).tolist(), strict=True)
    return join_checksums([sum_bytes(view[begin:end]) for begin, end in extents])


def _list(suffixes: Sequence[str]) -> str:
    return " or ".join(f".{suffix}" for suffix in suffixes)
