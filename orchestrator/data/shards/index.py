"""Groups the members of a shard into samples, as webdataset does, and keeps that as one Arrow table a shard.

After tarscan.py, before everything that reads samples. A table is valid for one size and mtime of its shard; whether
broken samples stop the work or are left out is decided by the caller's `on_bad`, so the table serves both."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchestrator.core.errors import DataError
from orchestrator.core.words import ShardRef
from orchestrator.data.shards.tarscan import BadShard, Member, scan_tar
from orchestrator.storage.stores import ShardBytes, Stores
from orchestrator.storage.tables import map_table, store_table
from orchestrator.storage.workplace import WorkPlace

OnBad = Literal["fail", "skip"]
SHOWN = 10
SCAN = 2  # rises when the same bytes come to another table; older ones are made again
_NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_META = re.compile(r"__[^/]*__($|/)")
_MEMBER = pa.struct({"suffix": pa.string(), "offset": pa.int64(), "size": pa.int64()})
_SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "offset": pa.int64(),
        "size": pa.int64(),
        "members": pa.list_(_MEMBER),
        "bad": pa.string(),
    }
)


class Piece(NamedTuple):
    """One member of a sample: its suffix and where its bytes lie in the shard."""

    suffix: str
    offset: int
    size: int


@dataclass(slots=True)
class Samples:
    """The samples of a shard in tar order, by columns: sample i has the members `first[i]` to `first[i + 1]`."""

    key: list[str] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    suffix: list[str] = field(default_factory=list)
    member_offset: list[int] = field(default_factory=list)
    member_size: list[int] = field(default_factory=list)
    bad: dict[int, str] = field(default_factory=dict)  # by place

    def as_table(self) -> pa.Table:
        members = pa.StructArray.from_arrays(
            [pa.array(self.suffix, pa.string()), *map(_as_int64, (self.member_offset, self.member_size))],
            fields=list(_MEMBER),
        )
        offset = _as_int64(self.offset)
        columns = [
            pa.array(self.key, pa.string()),
            offset,
            pc.subtract(_as_int64(self.end), offset),
            pa.ListArray.from_arrays(pa.array([*self.first, len(self.suffix)], pa.int32()), members),
            pa.array(map(self.bad.get, range(len(self.key))), pa.string()),
        ]
        return pa.table(columns, schema=_SCHEMA)


def _as_int64(values: list[int]) -> pa.Array:
    return pa.array(values, pa.int64())


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """Samples of one shard in tar order. `problem` says why the whole shard cannot be used; then it has no samples."""

    table: pa.Table
    problem: str
    stamp: str

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def keys(self) -> list[str]:
        return list(self.table["key"].to_pylist())

    def bad(self) -> list[str | None]:
        """For each sample why it cannot be used, or None."""
        return list(self.table["bad"].to_pylist())

    def members(self) -> list[list[Piece]]:
        lists = self.table["members"].combine_chunks()
        if isinstance(lists, pa.ChunkedArray):  # a table without rows has no chunk
            return []
        pieces = [Piece(*row) for row in zip(*(lists.values.field(i).to_pylist() for i in range(3)), strict=True)]
        ends = lists.offsets.to_pylist()
        return [pieces[first:stop] for first, stop in pairwise(ends)]

    def find_members(self, suffixes: Sequence[str]) -> "MemberPlaces":
        """For every sample the first of these suffixes that it has."""
        places = MemberPlaces(*(np.full(len(self), none, kind) for none, kind in ((0, "i8"), (0, "i8"), (-1, "i1"))))
        lists = self.table["members"].combine_chunks()
        if isinstance(lists, pa.ChunkedArray):
            return places
        suffix, offset, size = (lists.values.field(i) for i in range(3))
        sample = np.repeat(np.arange(len(self)), np.diff(lists.offsets.to_numpy()))
        for number in reversed(range(len(suffixes))):
            here = np.flatnonzero(pc.equal(suffix, suffixes[number]).to_numpy(zero_copy_only=False))
            places.begin[sample[here]] = offset.to_numpy()[here]
            places.size[sample[here]] = size.to_numpy()[here]
            places.suffix[sample[here]] = number
        return places


class MemberPlaces(NamedTuple):
    """Where one field's member lies in each sample of a shard; `suffix` is a number in the field's list, -1: none."""

    begin: NDArray[np.int64]
    size: NDArray[np.int64]
    suffix: NDArray[np.int8]


def index_shard(shard: ShardRef, work: Path, on_bad: OnBad, stores: Stores) -> ShardIndex:
    """The index of a shard: found in the work place, or made and left there."""
    path = WorkPlace.at(work).index(shard.url)
    stamp = shard.stamp if shard.stamp and stores.is_remote(shard.url) else stores.stamp(shard.url)
    found = _find(path, stamp)
    if found is None:
        found = _scan(shard, stores.open(shard.url, stamp))
        if stores.has_changed(shard.url, stamp):
            raise DataError(
                "changed while it was read", where=shard.url, remedy="wait until the shard is written, then run again"
            )
        note = {"url": shard.url, "stamp": stamp, "problem": found.problem, "scan": SCAN}
        store_table(path, found.table, note)
    if on_bad == "fail":
        _refuse_bad(shard, found)
    return found


def _find(path: Path, stamp: str) -> ShardIndex | None:
    if not path.exists():
        return None
    table, note = map_table(path)
    if note["stamp"] != stamp or note.get("scan") != SCAN:
        return None
    return ShardIndex(table=table, problem=note["problem"], stamp=stamp)


def find_index(url: str, work: Path) -> ShardIndex:
    """The index that preparing left of this copy of a shard, for those who read samples."""
    path = WorkPlace.at(work).index(url)
    table, note = map_table(path)
    return ShardIndex(table=table, problem=note["problem"], stamp=note["stamp"])


def _scan(shard: ShardRef, opened: ShardBytes) -> ShardIndex:
    samples = Samples()
    problem = ""
    opened.need_all()
    try:
        samples = group_members(scan_tar(opened.data, shard.url))
    except BadShard as error:
        problem = f"{type(error).__name__}: {error.message}"
    return ShardIndex(table=samples.as_table(), problem=problem, stamp=opened.stamp)


def group_members(members: Iterable[Member]) -> Samples:
    """Consecutive members of one key are a sample; names without a suffix and __meta__ ones are passed over."""
    samples = Samples()
    last, seen = None, set[str]()
    for name, begin, offset, size, end in members:
        match = _NAME.match(name)
        if match is None or (name.startswith("__") and _META.match(name)):
            continue
        key, suffix = match.groups()
        suffix = suffix.lower()
        if key != last:
            last, seen = key, set()
            samples.key.append(key)
            samples.offset.append(begin)
            samples.end.append(end)
            samples.first.append(len(samples.suffix))
        else:
            samples.end[-1] = end
        if suffix in seen:
            samples.bad[len(samples.key) - 1] = f"repeated suffix: two members .{suffix}"
        seen.add(suffix)
        samples.suffix.append(suffix)
        samples.member_offset.append(offset)
        samples.member_size.append(size)
    _mark_strange_names(samples)
    _mark_scattered(samples)
    return samples


def _mark_strange_names(samples: Samples) -> None:
    """Bytes that are no UTF-8 came as lone surrogates; they are shown escaped."""
    if all(map(str.isascii, chain(samples.key, samples.suffix))):
        return
    for place, (first, stop) in enumerate(pairwise([*samples.first, len(samples.suffix)])):
        names = [samples.key[place], *samples.suffix[first:stop]]
        shown = [_as_utf8(name) for name in names]
        if shown != names:
            samples.key[place], samples.suffix[first:stop] = shown[0], shown[1:]
            samples.bad[place] = "name is not UTF-8"


def _mark_scattered(samples: Samples) -> None:
    if len(set(samples.key)) == len(samples.key):
        return
    places = defaultdict(list)
    for place, key in enumerate(samples.key):
        places[key].append(place)
    ends = [*samples.first[1:], len(samples.suffix)]
    for found in places.values():
        if len(found) > 1:
            suffixes = [suffix for place in found for suffix in set(samples.suffix[samples.first[place] : ends[place]])]
            if len(set(suffixes)) < len(suffixes):
                why = f"repeated key: {len(found)} samples of the shard have it"
            else:
                why = f"scattered key: its members lie in {len(found)} places of the shard"
            samples.bad.update(dict.fromkeys(found, why))


def _as_utf8(text: str) -> str:
    """Bytes that are no UTF-8 came as lone surrogates; show them escaped."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _refuse_bad(shard: ShardRef, index: ShardIndex) -> None:
    if index.problem:
        advice = {kind.__name__: kind.advice for kind in BadShard.__subclasses__()}[index.problem.partition(":")[0]]
        raise DataError(
            index.problem,
            where=f"{shard.name} ({shard.url})",
            remedy=f"{advice}, or set data.on_bad=skip to leave this shard out",
        )
    remedy = "pack the shard again, each key once and members sorted by name, or set data.on_bad=skip to leave out "
    remedy += "what is broken"
    refuse_samples(shard, [(key, bad) for key, bad in zip(index.keys(), index.bad(), strict=True) if bad], remedy)


def refuse_samples(shard: ShardRef, bad: list[tuple[str, str]], remedy: str) -> None:
    """Raise when there are bad samples (key, reason); the first ones are shown."""
    if not bad:
        return
    shown = "; ".join(f"{key}: {reason}" for key, reason in bad[:SHOWN]) + ("; ..." if len(bad) > SHOWN else "")
    raise DataError(f"{len(bad)} bad samples: {shown}", where=f"{shard.name} ({shard.url})", remedy=remedy)
