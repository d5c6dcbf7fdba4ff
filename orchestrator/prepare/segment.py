"""Commits one segment: merges the prepared shards into its tables, then publishes its head.

After shard.py, before manifest.py. The bytes depend on data, rules and tokenizer, not on who prepared what first."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from orchestrator.core.errors import DataError
from orchestrator.data.shards.chain import SegmentHead, TokenizerInfo, encode_head, read_head, segment_id
from orchestrator.data.shards.source import Segment
from orchestrator.data.shards.split import SPLITS
from orchestrator.prepare.shard import ShardReport, shard_files
from orchestrator.storage.publish import create_exclusive
from orchestrator.storage.tables import encode_table, map_table
from orchestrator.storage.workplace import WorkPlace, store_bytes, writing

BY_SPLIT = ("kept", "tokens", "bytes")  # counted in every shard for each split
_SHARDS = pa.schema(
    {
        "name": pa.string(),
        "source": pa.int64(),
        "content": pa.string(),
        "verdicts": pa.string(),
        "samples": pa.int64(),
        "bad_samples": pa.int64(),
        "problem": pa.string(),
        "tokens_checksum": pa.string(),
        **{f"{what}_{split}": pa.int64() for what in BY_SPLIT for split in SPLITS},
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """What all segments of a chain have in common."""

    work: WorkPlace
    name: str
    source_names: list[str]
    rules: str
    tokenizer: TokenizerInfo


def commit_segment(chain: Chain, segment: Segment, previous: str, reports: Sequence[ShardReport]) -> SegmentHead:
    """Publish the tables, then the head. Of two that commit the same data both succeed; with other data one fails."""
    reports = sorted(reports, key=lambda report: report.ordinal)
    assert [report.ordinal for report in reports] == list(segment.ordinals)
    identity = segment_id(
        previous, [r.name for r in reports], [r.content for r in reports], chain.rules, chain.tokenizer.id
    )
    path = chain.work.segment_head(chain.name, segment.number)
    found = read_head(chain.work, path) if path.exists() else None
    if found is not None:
        _refuse_other(found, identity, path)
    checksums = {}
    for name, table in _merge(chain, reports).items():
        data = encode_table(table, {"segment": identity})
        store_bytes(chain.work.segment_table(chain.name, segment.number, name), data)
        checksums[name] = xxhash.xxh3_128_hexdigest(data)
    head = SegmentHead(
        number=segment.number,
        id=identity,
        previous=previous,
        ordinals=segment.ordinals,
        append=segment.append,
        source_names=chain.source_names,
        rules=chain.rules,
        tokenizer=chain.tokenizer,
        totals=_sum(reports),
        bad={"samples": sum(r.bad_samples for r in reports), "shards": sum(bool(r.problem) for r in reports)},
        tables=checksums,
    )
    if found is None:
        _publish_first(chain, head, path)
    elif found != head:  # the same data, in tables that were lost and made again by another version of Arrow
        store_bytes(path, encode_head(head))
    return head


def _publish_first(chain: Chain, head: SegmentHead, path: Path) -> None:
    with writing(path):
        try:
            create_exclusive(path, encode_head(head))
        except FileExistsError:
            _refuse_other(read_head(chain.work, path), head.id, path)


def _refuse_other(found: SegmentHead, identity: str, path: Path) -> None:
    if found.id != identity:
        raise DataError(
            f"segment {found.number} is committed as {found.id}, this data gives {identity}",
            where=str(path),
            remedy="another prepare used other data at the same time: run longhaul prepare again",
        )


def _sum(reports: Sequence[ShardReport]) -> dict[str, int]:
    by_split = {
        f"{what}_{split}": sum(getattr(report, what)[i] for report in reports)
        for what in BY_SPLIT
        for i, split in enumerate(SPLITS)
    }
    by_class = map(sum, zip(*(report.classes for report in reports), strict=True))
    return by_split | {f"class_{number}": count for number, count in enumerate(by_class)}


def _merge(chain: Chain, reports: Sequence[ShardReport]) -> dict[str, pa.Table]:
    """The tables of all shards one after another; drops get their shard's ordinal."""
    folder = chain.work.prepared(chain.rules, chain.tokenizer.id)
    samples, drops = [], []
    for report in reports:
        samples_path, drops_path, _ = shard_files(folder, report.name, report.content, report.verdicts)
        samples.append(map_table(samples_path)[0])
        table = map_table(drops_path)[0]
        drops.append(table.add_column(0, "ordinal", pa.array([report.ordinal] * table.num_rows, pa.int64())))
    return {"shards": _list_shards(reports), "samples": _concat(samples), "drops": _concat(drops)}


def _concat(tables: list[pa.Table]) -> pa.Table:
    return pa.concat_tables([table.replace_schema_metadata(None) for table in tables])


def _list_shards(reports: Sequence[ShardReport]) -> pa.Table:
    rows: dict[str, list[Any]] = {
        name: [getattr(r, name) for r in reports] for name in _SHARDS.names if hasattr(reports[0], name)
    }
    for what in BY_SPLIT:
        rows |= {f"{what}_{split}": [getattr(r, what)[i] for r in reports] for i, split in enumerate(SPLITS)}
    return pa.table({name: rows[name] for name in _SHARDS.names}, schema=_SHARDS)
