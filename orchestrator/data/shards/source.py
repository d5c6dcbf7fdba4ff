"""Lists the sources and gives every shard its permanent number. Before index.py and prepare/.

Ordinals depend on the dataset only: a keyed permutation of each source's names, sources interleaved by weight. Shards
that come later are permuted among themselves and appended. Consecutive ordinals are cut into segments by count and
bytes; the first is small, so that training can begin early, later ones leave room for many lanes."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from orchestrator.config.data import DataSection
from orchestrator.core.errors import DataError
from orchestrator.core.keyed import key, permute, text_key
from orchestrator.core.words import ShardRef
from orchestrator.storage.local import Listed
from orchestrator.storage.stores import StoreSettings, open_stores

DOUBLINGS = 4  # each segment may have twice what the one before had, up to this many times


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """Consecutive ordinals, prepared and committed together. `append`: all ordinals that came at the same time."""

    number: int
    ordinals: range
    append: range


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """What the committed chain has fixed: logical names by ordinal, and its segments."""

    names: Sequence[str] = ()
    segments: Sequence[Segment] = ()


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Every shard in ordinal order, with the stamp its listing showed, and the segments."""

    source_names: list[str]
    shards: list[ShardRef]
    stamps: list[str]
    segments: list[Segment]
    roots: dict[str, str] = field(default_factory=dict)

    @classmethod
    def list(cls, data: DataSection, history: History | None = None) -> "Dataset":
        """List every source once. With a history, ordinals continue it."""
        stores = open_stores(StoreSettings.of(data))
        listings = [stores.list(source.path, f"data.train[{i}].path") for i, source in enumerate(data.train)]
        return cls.extend(data, history or History(), listings)

    @classmethod
    def extend(cls, data: DataSection, history: History, listings: Sequence[Sequence[Listed]]) -> "Dataset":
        """Ordinals of the history as they were, then those of shards it does not know."""
        labels = [source.label for source in data.train]
        listed = {
            f"{label}/{one.name}": (source, one)
            for source, (label, listing) in enumerate(zip(labels, listings, strict=True))
            for one in listing
        }
        missing = next((name for name in history.names if name not in listed), None)
        if missing is not None:
            raise DataError(
                f"shard {missing} was prepared before and is not listed any more",
                where="data.train",
                remedy="put it back, or begin a new chain: set data.train[].name or data.work to another value",
            )
        names, append = _order_names(labels, [source.weight for source in data.train], history, list(listed))
        shards = [
            ShardRef(
                ordinal=i,
                source=listed[name][0],
                name=name,
                url=listed[name][1].url,
                size_bytes=listed[name][1].size_bytes,
                stamp=listed[name][1].stamp,
            )
            for i, name in enumerate(names)
        ]
        segments = [*history.segments, *_cut(data, shards, append, len(history.names), len(history.segments))]
        roots = {
            label: found[0].url.removesuffix(f"/{found[0].name}") for label, found in zip(labels, listings, strict=True)
        }
        stamps = [listed[name][1].stamp for name in names]
        return cls(source_names=labels, shards=shards, stamps=stamps, segments=segments, roots=roots)


def _order_names(
    labels: list[str], weights: list[float], history: History, listed: list[str]
) -> tuple[list[str], range]:
    """Names by ordinal, and the append that follows the history: the rest of its last one, or a new one."""
    committed = list(history.names)
    new = sorted(set(listed) - set(committed))
    if history.segments:
        append = history.segments[-1].append
        if len(committed) < append.stop == len(committed) + len(new):  # preparing stopped inside it
            whole = order_append(labels, weights, [*committed[append.start :], *new])
            if whole[: len(committed) - append.start] == committed[append.start :]:
                return committed[: append.start] + whole, append
    return committed + order_append(labels, weights, new), range(len(committed), len(committed) + len(new))


def order_append(labels: list[str], weights: list[float], names: list[str]) -> list[str]:
    """The order of shards that come together: permuted by source, sources interleaved by weight until they run out."""
    own: dict[str, list[str]] = {label: [] for label in labels}
    for name in sorted(names):
        own[name.split("/", 1)[0]].append(name)
    turns: list[tuple[float, int, str]] = []
    for source, (label, weight) in enumerate(zip(labels, weights, strict=True)):
        order = permute(np.arange(len(own[label])), len(own[label]), key(text_key(label)))
        turns += [((turn + 0.5) / weight, source, own[label][place]) for turn, place in enumerate(order)]
    turns.sort(key=lambda turn: turn[:2])
    return [name for _, _, name in turns]


def _cut(data: DataSection, shards: list[ShardRef], append: range, begin: int, number: int) -> list[Segment]:
    """Segments from ordinal `begin` on: as many shards as count and bytes allow, at least one.

    Limits depend on a segment's number alone, so that cutting can go on where it stopped."""
    segments: list[Segment] = []
    first, size = begin, 0
    for ordinal in range(begin, len(shards) + 1):
        growth = 2 ** min(number + len(segments), DOUBLINGS)
        fits = (
            ordinal < len(shards)
            and ordinal - first < data.segment_shards * growth
            and size + shards[ordinal].size_bytes <= data.segment_bytes * growth
        )
        if ordinal > first and not fits:
            segments.append(Segment(number=number + len(segments), ordinals=range(first, ordinal), append=append))
            first, size = ordinal, 0
        if ordinal < len(shards):
            size += shards[ordinal].size_bytes
    return segments
