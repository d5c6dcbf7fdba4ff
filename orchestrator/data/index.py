"""Groups the members of a shard into samples, as webdataset does, and keeps that as one Arrow table a shard.

After tarscan.py, before everything that reads samples. A table is valid for one size and mtime of its shard; whether
broken samples stop the work or are left out is decided by the caller's `on_bad`, so the table serves both."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa

from orchestrator.core.errors import DataError
from orchestrator.core.words import ShardRef
from orchestrator.data.tarscan import BadShard, Member, scan_tar
from orchestrator.storage.store import map_shard, stamp_shard
from orchestrator.storage.tables import map_table, store_table
from orchestrator.storage.workplace import WorkPlace

OnBad = Literal["fail", "skip"]
SHOWN = 10
_NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_META = re.compile(r"__[^/]*__($|/)")
_SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "offset": pa.int64(),
        "size": pa.int64(),
        "members": pa.list_(pa.struct({"suffix": pa.string(), "offset": pa.int64(), "size": pa.int64()})),
        "bad": pa.string(),
    }
)


class Piece(NamedTuple):
    """One member of a sample: its suffix and where its bytes lie in the shard."""

    suffix: str
    offset: int
    size: int


@dataclass(slots=True)
class _Group:
    key: str
    offset: int
    end: int
    pieces: list[Piece]
    bad: str | None = None


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


def index_shard(shard: ShardRef, work: Path, on_bad: OnBad) -> ShardIndex:
    """The index of a shard: found in the work place, or made and left there."""
    path = WorkPlace.at(work).index(shard.url)
    stamp = stamp_shard(shard.url)
    found = _find(path, stamp)
    if found is None:
        found = _scan(shard, stamp)
        store_table(path, found.table, {"url": shard.url, "stamp": stamp, "problem": found.problem})
    if on_bad == "fail":
        _refuse_bad(shard, found)
    return found


def _find(path: Path, stamp: str) -> ShardIndex | None:
    if not path.exists():
        return None
    table, note = map_table(path)
    return ShardIndex(table=table, problem=note["problem"], stamp=stamp) if note["stamp"] == stamp else None


def _scan(shard: ShardRef, stamp: str) -> ShardIndex:
    groups: list[_Group] = []
    problem = ""
    try:
        groups = group_members(scan_tar(map_shard(shard.url), shard.url))
    except BadShard as error:
        problem = f"{type(error).__name__}: {error.message}"
    if stamp_shard(shard.url) != stamp:
        raise DataError(
            "changed while it was read", where=shard.url, remedy="wait until the shard is written, then run again"
        )
    rows = {
        "key": [group.key for group in groups],
        "offset": [group.offset for group in groups],
        "size": [group.end - group.offset for group in groups],
        "members": [[piece._asdict() for piece in group.pieces] for group in groups],
        "bad": [group.bad for group in groups],
    }
    return ShardIndex(table=pa.table(rows, schema=_SCHEMA), problem=problem, stamp=stamp)


def group_members(members: Iterable[Member]) -> list[_Group]:
    """Consecutive members of one key are a sample; names without a suffix and __meta__ ones are passed over."""
    groups: list[_Group] = []
    for member in members:
        match = None if _META.match(member.name) else _NAME.match(member.name)
        if match is None:
            continue
        key, suffix = _as_utf8(match.group(1)), _as_utf8(match.group(2).lower())
        if not groups or groups[-1].key != key:
            groups.append(_Group(key, member.begin, member.end, []))
        group = groups[-1]
        if any(piece.suffix == suffix for piece in group.pieces):
            group.bad = f"repeated suffix: two members .{suffix}"
        if (key, suffix) != (match.group(1), match.group(2).lower()):
            group.bad = "name is not UTF-8"
        group.pieces.append(Piece(suffix, member.offset, member.size))
        group.end = member.end
    times = Counter(group.key for group in groups)
    for group in groups:
        if times[group.key] > 1:
            group.bad = f"scattered key: its members lie in {times[group.key]} places of the shard"
    return groups


def _as_utf8(text: str) -> str:
    """Bytes that are no UTF-8 came as lone surrogates; show them escaped."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _refuse_bad(shard: ShardRef, index: ShardIndex) -> None:
    remedy = "pack the shard again, members sorted by name, or set data.on_bad=skip to leave out what is broken"
    if index.problem:
        raise DataError(index.problem, where=f"{shard.name} ({shard.url})", remedy=remedy)
    refuse_samples(shard, [(key, bad) for key, bad in zip(index.keys(), index.bad(), strict=True) if bad], remedy)


def refuse_samples(shard: ShardRef, bad: list[tuple[str, str]], remedy: str) -> None:
    """Raise when there are bad samples (key, reason); the first ones are shown."""
    if not bad:
        return
    shown = "; ".join(f"{key}: {reason}" for key, reason in bad[:SHOWN]) + ("; ..." if len(bad) > SHOWN else "")
    raise DataError(f"{len(bad)} bad samples: {shown}", where=f"{shard.name} ({shard.url})", remedy=remedy)
