"""The text of each sample of a shard, or why it has none. Between the raw bytes and verdicts, tokenizer and tokens."""

import re
from collections.abc import Iterable, Iterator, Sequence
from mmap import mmap
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.words import ShardRef
from orchestrator.data.shards.index import MemberPlaces, ShardIndex
from orchestrator.prepare.drops import Drop, refuse_drops
from orchestrator.prepare.rules import Rules
from orchestrator.storage.stores import Stores

KEY = "prepare.tokens.text_member"
PIECE = 1_000_000  # characters that a tokenizer is given at once: it needs a hundred times their memory
_BETWEEN_WORDS = re.compile(r"(?<=\w) (?=\w)")


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
    texts, wrong = decode_texts(opened.data, members, rules.text_member, places_left(len(index), drops))
    drops += wrong
    if verdicts is None:
        refuse_drops(shard, index, drops, rules.on_bad, KEY)
    if rules.clean:
        from orchestrator.prepare.cleaning import alter_texts, judge_texts  # compiled code, which not everybody needs

        if verdicts is None:
            unclean = judge_texts(opened.data, index, rules, texts)
            drops += unclean
            texts = {place: texts[place] for place in texts.keys() - {drop.place for drop in unclean}}
        texts = alter_texts(opened.data, index, rules, dict(sorted(texts.items())))
    drops.sort(key=lambda drop: drop.place)
    return Kept(np.fromiter(texts, np.int64, len(texts)), list(texts.values()), drops)


def find_lacking(index: ShardIndex, members: MemberPlaces, member: str) -> list[Drop]:
    """Samples that the index calls bad, those without the member, and those where it is empty."""
    drops = [Drop(place, "bad sample", why) for place, why in enumerate(index.bad()) if why is not None]
    sound = np.ones(len(index), bool)
    sound[[drop.place for drop in drops]] = False
    lacking = np.flatnonzero(sound & (members.suffix < 0)).tolist()
    pieces = index.members() if lacking else []
    for place in lacking:
        others = ", ".join(f".{piece.suffix}" for piece in pieces[place])
        drops.append(Drop(place, "no text", f"no member .{member}, only {others}"))
    empty = np.flatnonzero(sound & (members.suffix >= 0) & (members.size == 0)).tolist()
    return drops + [Drop(place, "empty", f"member .{member} is empty") for place in empty]


def not_utf8(place: int, byte: int, member: str) -> Drop:
    return Drop(place, "not UTF-8", f"byte {byte} of .{member} is no UTF-8")


def places_left(count: int, drops: Iterable[Drop]) -> list[int]:
    """The places of a shard's samples that are not dropped."""
    dropped = {drop.place for drop in drops}
    return [place for place in range(count) if place not in dropped]


def decode_texts(
    data: mmap | bytes, members: MemberPlaces, member: str, places: Sequence[int]
) -> tuple[dict[int, str], list[Drop]]:
    """Texts by place, and what is none."""
    view, begins = memoryview(data), members.begin[np.asarray(places, np.int64)]
    ends = begins + members.size[np.asarray(places, np.int64)]
    texts, wrong = dict[int, str](), list[Drop]()
    for place, begin, end in zip(places, begins.tolist(), ends.tolist(), strict=True):
        try:
            texts[place] = str(view[begin:end], "utf-8")
        except UnicodeDecodeError as error:
            wrong.append(not_utf8(place, error.start, member))
    return texts, wrong


def cut_text(text: str) -> Iterator[tuple[int, int]]:
    """Where the pieces of a text begin and end: one, or of a long text several, cut before a space between two words,
    where tokens end anyway."""
    begin = 0
    while len(text) - begin > PIECE:
        found = _BETWEEN_WORDS.search(text, begin + PIECE // 2, begin + PIECE)
        end = found.start() if found else begin + PIECE
        yield begin, end
        begin = end
    yield begin, len(text)
