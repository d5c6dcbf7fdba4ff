"""The number line of a segment: what earlier segments kept, then the segment's own samples in the order of who stays.

Whoever judges opens it from the work place, in whatever process, and reads texts again where they are needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.words import ShardRef
from orchestrator.data.shards.index import index_shard
from orchestrator.prepare.judging.roll import Roll
from orchestrator.prepare.near.documents import NearRules, Sets, Texts
from orchestrator.prepare.near.sign import cut_sets
from orchestrator.prepare.near.texts import canonical_texts
from orchestrator.prepare.rules import Rules
from orchestrator.storage.stores import StoreSettings, open_stores
from orchestrator.storage.tables import map_table
from orchestrator.storage.workplace import WorkPlace

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chapter:
    """Names a segment of a chain in a work place, and what its comparing leaves there."""

    work: Path
    chain: str
    number: int
    basis: str = ""  # what the verdicts rest on; another one makes another chapter

    @property
    def roll(self) -> Path:
        return WorkPlace.at(self.work).segment_table(self.chain, self.number, "roll")

    @property
    def verdicts(self) -> Path:
        return WorkPlace.at(self.work).segment_table(self.chain, self.number, "verdicts")

    def before(self) -> list["Chapter"]:
        return [Chapter(work=self.work, chain=self.chain, number=number) for number in range(self.number)]


@dataclass(frozen=True, kw_only=True)
class Line:
    """`roll` is all of it; the segment's own samples begin at `own`."""

    roll: Roll
    own: int


@lru_cache(maxsize=1)
def open_line(chapter: Chapter) -> Line:
    """Mapped or copied once a process and segment."""
    earlier = [load_kept(one) for one in chapter.before()]
    return Line(roll=Roll.join([*earlier, Roll.load(chapter.roll)]), own=sum(map(len, earlier)))


def load_kept(chapter: Chapter) -> Roll:
    """Of a segment that is judged, the samples that stay."""
    roll, drops = Roll.load(chapter.roll), map_table(chapter.verdicts)[0]
    dropped = _name_samples(drops["ordinal"].to_numpy(), drops["place"].to_numpy())
    return roll.take(np.flatnonzero(~np.isin(_name_samples(roll.ordinals, roll.places), dropped)))


def _name_samples(ordinals: Ints, places: Ints) -> NDArray[np.uint64]:
    return ordinals.astype(np.uint64) << np.uint64(32) | places.astype(np.uint64)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextReader:
    """Reads texts from raw shards again, to compare them exactly."""

    work: Path
    stores: StoreSettings
    rules: Rules

    def cut_sets(self, shards: Sequence[ShardRef], ordinals: Ints, places: Ints, near: NearRules) -> Sets:
        """The shingles of samples that lie in these shards, in the order of the samples."""
        parts = {
            shard.ordinal: self._cut(shard, places[ordinals == shard.ordinal], near)
            for shard in shards
            if (ordinals == shard.ordinal).any()
        }
        return _weave(ordinals, parts)

    def _cut(self, shard: ShardRef, places: Ints, near: NearRules) -> Sets:
        return cut_sets(self._read(shard, places), near)

    def _read(self, shard: ShardRef, places: Ints) -> Texts:
        stores = open_stores(self.stores)
        index = index_shard(shard, self.work, self.rules.on_bad, stores)
        members = index.find_members([self.rules.compared_member])
        begins, sizes = members.begin[places], members.size[places]
        opened = stores.open(shard.url, index.stamp)
        opened.need(begins, begins + sizes)
        return canonical_texts(opened.data, begins, sizes)[0]


def _weave(ordinals: Ints, parts: dict[int, Sets]) -> Sets:
    """Sets of several shards in the order of `ordinals`; of one shard they are in order already."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    sizes, sources = np.zeros(len(ordinals), np.int64), np.zeros(len(ordinals), np.int64)
    flats: list[NDArray[np.uint64]] = []
    first = 0
    for ordinal, part in parts.items():
        here = np.flatnonzero(ordinals == ordinal)
        sizes[here], sources[here] = np.diff(part.ends), part.ends[:-1] + first
        flats.append(part.flat[: part.ends[-1]])
        first += int(part.ends[-1])
    ends = np.concatenate([[0], np.cumsum(sizes)])
    flat = np.concatenate([np.empty(0, np.uint64), *flats])
    order = np.repeat(sources - ends[:-1], sizes) + np.arange(ends[-1])
    return Sets(flat[order], ends)
