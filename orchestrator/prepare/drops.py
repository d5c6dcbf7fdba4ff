"""Why samples are not kept: what every stage of preparing says of what it drops, and when that stops the work."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.core.words import ShardRef
from orchestrator.data.shards.index import OnBad, ShardIndex, refuse_samples

BROKEN = ("bad sample", "no text", "not UTF-8", "missing member", "no group", "bad row")  # what data.on_bad is about
DUPLICATES = ("exact duplicate", "near duplicate")
CONTAMINATED = "contaminated"
WHOLE_SHARD = -1  # the place of a drop that concerns the shard itself


@dataclass(frozen=True, slots=True)
class Drop:
    """A sample that is not kept: which rule, and what was found; of a duplicate which kept sample, and how alike. Of
    one that is like a text from outside, the reason is that one's name."""

    place: int
    rule: str
    reason: str
    partner_ordinal: int | None = None
    partner_place: int | None = None
    score: float | None = None


Verdicts = Mapping[int, tuple[Drop, ...]]  # all drops of some shards, by ordinal


def keep_first(drops: Iterable[Drop]) -> list[Drop]:
    """One a place, in their order: who found something first says why."""
    found: dict[int, Drop] = {}
    for drop in drops:
        found.setdefault(drop.place, drop)
    return [found[place] for place in sorted(found)]


def refuse_drops(shard: ShardRef, index: ShardIndex, drops: list[Drop], on_bad: OnBad, config_key: str) -> None:
    """What is broken stops the work unless it may be skipped."""
    if on_bad == "skip":
        return
    keys = index.keys()
    broken = [(keys[drop.place], drop.reason) for drop in drops if drop.rule in BROKEN]
    refuse_samples(shard, broken, f"repair the shard, set {config_key}, or set data.on_bad=skip to leave these out")
