"""The text of each sample of a shard, or why it has none. Between the raw bytes and verdicts, tokenizer and tokens."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.words import ShardRef
from orchestrator.data.shards.index import MemberPlaces, OnBad, ShardIndex, refuse_samples
from orchestrator.prepare.rules import Rules
from orchestrator.storage.stores import Stores

HARMLESS = ("empty",)  # rules that drop what is not broken
DUPLICATES = ("exact duplicate", "near duplicate")
WHOLE_SHARD = -1  # the place of a drop that concerns the shard itself


@dataclass(frozen=True, slots=True)
class Drop:
    """A sample that is not kept: which rule, and what was found; of a duplicate which kept sample, and how alike."""

    place: int
    rule: str
    reason: str
    partner_ordinal: int | None = None
    partner_place: int | None = None
    score: float | None = None


Verdicts = Mapping[int, tuple[Drop, ...]]  # all drops of some shards, by ordinal


class Kept(NamedTuple):
    """The samples of a shard whose text is used, in tar order, and what is dropped."""

    places: NDArray[np.int64]
    texts: list[str]
    drops: list[Drop]


def read_kept(
    shard: ShardRef, index: ShardIndex, rules: Rules, stores: Stores, verdicts: Sequence[Drop] | None = None
) -> Kept:
    """The texts that become tokens. `verdicts` are all drops of the shard where they have been decided already."""
    opened = stores.open(shard.url, index.stamp)
    opened.need_all()
    members = index.find_members([rules.text_member])
    drops = list(verdicts) if verdicts is not None else find_lacking(index, members, rules.text_member)
    texts = dict(_decode_all(memoryview(opened.data), members, _others(len(index), drops)))
    if verdicts is None:
        drops += find_useless(texts, rules.text_member)
        refuse_drops(shard, index, drops, rules.on_bad, "prepare.tokens.text_member")
    for drop in drops:
        texts.pop(drop.place, None)
    drops.sort(key=lambda drop: drop.place)
    return Kept(np.fromiter(texts, np.int64, len(texts)), [str(text) for text in texts.values()], drops)


def find_lacking(index: ShardIndex, members: MemberPlaces, member: str) -> list[Drop]:
    """Samples that the index calls bad, and those without the member."""
    bad = index.bad()
    drops = [Drop(place, "bad sample", why) for place, why in enumerate(bad) if why is not None]
    lacking = [place for place in np.flatnonzero(members.suffix < 0).tolist() if bad[place] is None]
    if lacking:
        pieces = index.members()
        for place in lacking:
            others = ", ".join(f".{piece.suffix}" for piece in pieces[place])
            drops.append(Drop(place, "no text", f"no member .{member}, only {others}"))
    return drops


def find_useless(texts: Mapping[int, str | int], member: str) -> list[Drop]:
    """Of members by place, those that are no UTF-8 (then it is the place of the first wrong byte) or empty."""
    drops = []
    for place, text in texts.items():
        if isinstance(text, int):
            drops.append(Drop(place, "not UTF-8", f"byte {text} of .{member} is no UTF-8"))
        elif not text:
            drops.append(Drop(place, "empty", f"member .{member} is empty"))
    return drops


def _others(n: int, drops: Sequence[Drop]) -> list[int]:
    """The places of a shard that are not dropped."""
    others = np.ones(n, bool)
    others[[drop.place for drop in drops if drop.place != WHOLE_SHARD]] = False
    return np.flatnonzero(others).tolist()


def _decode_all(view: memoryview, members: MemberPlaces, places: list[int]) -> Iterator[tuple[int, str | int]]:
    begins = members.begin[places]
    ends = begins + members.size[places]
    for place, begin, end in zip(places, begins.tolist(), ends.tolist(), strict=True):
        try:
            yield place, str(view[begin:end], "utf-8")
        except UnicodeDecodeError as error:
            yield place, error.start


def refuse_drops(shard: ShardRef, index: ShardIndex, drops: list[Drop], on_bad: OnBad, config_key: str) -> None:
    """An empty document is not broken; everything else is, and stops the work unless it may be skipped."""
    if on_bad == "skip":
        return
    keys = index.keys()
    broken = [(keys[drop.place], drop.reason) for drop in drops if drop.rule not in HARMLESS]
    refuse_samples(shard, broken, f"repair the shard, set {config_key}, or set data.on_bad=skip to leave these out")
