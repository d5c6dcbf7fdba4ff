"""Prepares one shard: verdicts, splits and tokens, from raw bytes to published files. Pure and idempotent.

After index and tokenizer, before the segment's commit. The samples table is published last and carries the report, so
whatever a killed worker left behind is not trusted, and finished work is found again by name and content."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from orchestrator.core.words import ShardRef
from orchestrator.data.chain import TokenizerInfo
from orchestrator.data.index import ShardIndex, index_shard
from orchestrator.data.split import SPLITS, split_of
from orchestrator.prepare.contents import Contents, read_contents
from orchestrator.prepare.rules import Rules
from orchestrator.prepare.text import WHOLE_SHARD, Drop, read_texts, refuse_bad_texts
from orchestrator.prepare.tokenizer import open_tokenizer
from orchestrator.storage.tables import map_table, store_table
from orchestrator.storage.workplace import WorkPlace, prepared_file, store_bytes

_CHUNK = 4_000_000  # characters encoded at once: bounds memory, keeps threads busy
SAMPLES = pa.schema(
    {
        "key": pa.string(),
        "checksum_high": pa.uint64(),
        "checksum_low": pa.uint64(),
        "kept": pa.uint8(),  # a byte, not a bit: mapped as it is
        "split": pa.uint8(),
        "first": pa.int64(),
        "tokens": pa.uint32(),
    }
)
DROPS = pa.schema(
    {
        "place": pa.int64(),
        "rule": pa.string(),
        "reason": pa.string(),
        "partner_ordinal": pa.int64(),  # the kept sample it duplicates, and how alike they are
        "partner_place": pa.int64(),
        "score": pa.float64(),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardJob:
    shard: ShardRef
    source_name: str
    work: Path
    rules: Rules
    tokenizer: TokenizerInfo

    @property
    def folder(self) -> Path:
        return WorkPlace.at(self.work).prepared(self.rules.id, self.tokenizer.id)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardReport:
    """What a segment must know of a prepared shard. `kept` and `tokens` are by split, in the order of SPLITS."""

    ordinal: int
    source: int
    name: str
    content: str
    samples: int
    bad_samples: int
    problem: str
    kept: list[int]
    tokens: list[int]
    tokens_checksum: str


def prepare_shard(job: ShardJob) -> ShardReport:
    """As a task over one shard; does nothing when the work is done."""
    index = index_shard(job.shard, job.work, job.rules.on_bad)
    contents = read_contents(job.shard, index, job.work)
    return _find_report(job, contents) or _prepare(job, index, contents)


def shard_files(folder: Path, name: str, content: str) -> tuple[Path, Path, Path]:
    """Samples, drops and tokens of a prepared shard."""
    samples, drops, tokens = (
        prepared_file(folder, name, content, end) for end in (".samples.arrow", ".drops.arrow", ".tokens")
    )
    return samples, drops, tokens


def _find_report(job: ShardJob, contents: Contents) -> ShardReport | None:
    """The report of finished work, with this dataset's numbers for the shard."""
    samples, drops, tokens = shard_files(job.folder, job.shard.name, contents.content)
    if not (samples.exists() and drops.exists() and tokens.exists()):
        return None
    report = map_table(samples)[1]["report"]
    if tokens.stat().st_size != sum(report["tokens"]) * job.tokenizer.token_bytes:
        return None
    return ShardReport(**{**report, "ordinal": job.shard.ordinal, "source": job.shard.source})


def _prepare(job: ShardJob, index: ShardIndex, contents: Contents) -> ShardReport:
    found = list(read_texts(job.shard, index, job.rules.text_member))
    drops = [text for text in found if isinstance(text, Drop)]
    refuse_bad_texts(job.shard, index, drops, job.rules.on_bad)
    if index.problem:
        drops.append(Drop(WHOLE_SHARD, "bad shard", index.problem))
    kept = np.array([isinstance(text, str) for text in found], np.uint8)
    lengths, tokens = _encode([text for text in found if isinstance(text, str)], job.tokenizer)
    counts = np.zeros(len(found), np.int64)
    counts[kept == 1] = lengths
    split = split_of(job.source_name, job.shard.name, index.keys(), job.rules.split)
    of_split = [(kept == 1) & (split == number) for number in range(len(SPLITS))]
    report = ShardReport(
        ordinal=job.shard.ordinal,
        source=job.shard.source,
        name=job.shard.name,
        content=contents.content,
        samples=len(found),
        bad_samples=sum(drop.rule not in ("empty", "bad shard") for drop in drops),
        problem=index.problem,
        kept=[int(chosen.sum()) for chosen in of_split],
        tokens=[int(counts[chosen].sum()) for chosen in of_split],
        tokens_checksum=xxhash.xxh3_128_hexdigest(tokens.tobytes()),
    )
    columns = [index.keys(), contents.high, contents.low, kept, split, np.cumsum(counts) - counts, counts]
    _publish(job, report, pa.table(dict(zip(SAMPLES.names, columns, strict=True)), schema=SAMPLES), drops, tokens)
    return report


def _publish(job: ShardJob, report: ShardReport, table: pa.Table, drops: list[Drop], tokens: NDArray[Any]) -> None:
    samples_path, drops_path, tokens_path = shard_files(job.folder, job.shard.name, report.content)
    store_bytes(tokens_path, tokens.tobytes())
    rows = {name: [getattr(drop, name, None) for drop in drops] for name in DROPS.names}
    store_table(drops_path, pa.table(rows, schema=DROPS), {})
    lasting = {key: value for key, value in asdict(report).items() if key not in ("ordinal", "source")}
    store_table(samples_path, table, {"report": lasting})


def _encode(texts: list[str], info: TokenizerInfo) -> tuple[list[int], NDArray[Any]]:
    """Tokens of every text with its end mark, one after another, and how many each has."""
    tokenizer = open_tokenizer(info)
    lengths: list[int] = []
    parts: list[NDArray[Any]] = [np.empty(0, info.dtype)]
    for chunk in _in_chunks(texts):
        for encoding in tokenizer.encode_batch_fast(chunk, add_special_tokens=False):
            parts.append(np.array([*encoding.ids, info.end_id], info.dtype))
            lengths.append(len(parts[-1]))
    return lengths, np.concatenate(parts)


def _in_chunks(texts: list[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size >= _CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
