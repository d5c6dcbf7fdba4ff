"""The text of each sample of a shard, or why it has none. Between the raw bytes and verdicts, tokenizer and tokens."""

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.core.words import ShardRef
from orchestrator.data.shards.index import OnBad, Piece, ShardIndex, refuse_samples
from orchestrator.storage.stores import Stores

HARMLESS = ("empty",)  # rules that drop what is not broken
WHOLE_SHARD = -1  # the place of a drop that concerns the shard itself


@dataclass(frozen=True, slots=True)
class Drop:
    """A sample that is not kept: which rule, and what was found."""

    place: int
    rule: str
    reason: str


def read_texts(shard: ShardRef, index: ShardIndex, text_member: str, stores: Stores) -> Iterator[str | Drop]:
    """One text or drop for each sample in tar order."""
    opened = stores.open(shard.url, index.stamp)
    opened.need_all()
    view = memoryview(opened.data)
    for place, (bad, pieces) in enumerate(zip(index.bad(), index.members(), strict=True)):
        yield _decode(view, pieces, place, text_member) if bad is None else Drop(place, "bad sample", bad)


def _decode(view: memoryview, pieces: list[Piece], place: int, text_member: str) -> str | Drop:
    piece = next((piece for piece in pieces if piece.suffix == text_member), None)
    if piece is None:
        return Drop(
            place, "no text", f"no member .{text_member}, only {', '.join('.' + piece.suffix for piece in pieces)}"
        )
    try:
        text = str(view[piece.offset : piece.offset + piece.size], "utf-8")
    except UnicodeDecodeError as error:
        return Drop(place, "not UTF-8", f"byte {error.start} of .{text_member} is no UTF-8")
    return text or Drop(place, "empty", f"member .{text_member} is empty")


def refuse_drops(shard: ShardRef, index: ShardIndex, drops: list[Drop], on_bad: OnBad, config_key: str) -> None:
    """An empty document is not broken; everything else is, and stops the work unless it may be skipped."""
    if on_bad == "skip":
        return
    keys = index.keys()
    broken = [(keys[drop.place], drop.reason) for drop in drops if drop.rule not in HARMLESS]
    refuse_samples(shard, broken, f"repair the shard, set {config_key}, or set data.on_bad=skip to leave these out")
