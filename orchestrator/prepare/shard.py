"""Prepares one shard: verdicts, splits and tokens, from raw bytes to published files. Pure and idempotent.

After index and tokenizer, before the segment's commit. The samples table is published last and carries the report, so
whatever a killed worker left behind is not trusted, and finished work is found again by name and content."""

from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from orchestrator.core.words import ShardRef
from orchestrator.data.decoding.texts import open_tokenizer
from orchestrator.data.shards.chain import TokenizerInfo
from orchestrator.data.shards.contents import Contents, read_contents
from orchestrator.data.shards.index import ShardIndex, index_shard
from orchestrator.data.shards.split import SPLITS, TRAIN
from orchestrator.prepare.drops import BROKEN, WHOLE_SHARD, Drop, keep_first, refuse_drops
from orchestrator.prepare.labels import count_classes
from orchestrator.prepare.members import check_members, judge_alone
from orchestrator.prepare.rules import Rules, hash_json
from orchestrator.prepare.splits import Splits, find_splits
from orchestrator.prepare.text import cut_text, read_kept
from orchestrator.storage.stores import StoreSettings, open_stores
from orchestrator.storage.tables import map_table, store_table
from orchestrator.storage.workplace import WorkPlace, hash_text, name_prepared, prepared_file, store_bytes

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
        "bytes": pa.int64(),  # of the members that are fed
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
    stores: StoreSettings
    rules: Rules
    tokenizer: TokenizerInfo
    verdicts: tuple[Drop, ...] | None = None  # all drops, where they depend on other shards (judge.py)

    @property
    def folder(self) -> Path:
        return WorkPlace.at(self.work).prepared(self.rules.id, self.tokenizer.id)

    @property
    def verdicts_id(self) -> str:
        """Part of the files' names, since the same shard may meet others elsewhere; empty if none depend on others."""
        if self.verdicts is None:
            return hash_text(self.rules.statistics) if self.rules.statistics else ""
        return hash_json([astuple(drop) for drop in self.verdicts])


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardReport:
    """What a segment must know of a prepared shard. `kept`, `tokens`, `bytes` are by split, in the order of SPLITS."""

    ordinal: int
    source: int
    name: str
    content: str
    verdicts: str
    samples: int
    bad_samples: int
    problem: str
    kept: list[int]
    tokens: list[int]
    bytes: list[int]
    tokens_checksum: str
    classes: list[int] = field(default_factory=list)  # kept training samples of each; empty unless they are counted


def prepare_shard(job: ShardJob) -> ShardReport:
    """As a task over one shard; does nothing when the work is done."""
    stores = open_stores(job.stores)
    index = index_shard(job.shard, job.work, job.rules.on_bad, stores)
    contents = read_contents(job.shard, index, job.work, stores)
    found = _find_report(job, contents)
    if found is not None:
        return found
    splits = find_splits(job.shard, job.source_name, index, job.rules, stores)
    judge = _feed_tokens if job.rules.makes_tokens else _feed_members
    return _publish(job, index, contents.content, splits.of, judge(job, index, contents, splits))


def shard_files(folder: Path, name: str, content: str, verdicts: str) -> tuple[Path, Path, Path]:
    """Samples, drops and tokens of a prepared shard."""
    of_shard = name_prepared(content, verdicts)
    samples, drops, tokens = (
        prepared_file(folder, name, of_shard, end) for end in (".samples.arrow", ".drops.arrow", ".tokens")
    )
    return samples, drops, tokens


def _find_report(job: ShardJob, contents: Contents) -> ShardReport | None:
    """The report of finished work, with this dataset's numbers for the shard."""
    samples, drops, tokens = shard_files(job.folder, job.shard.name, contents.content, job.verdicts_id)
    if not (samples.exists() and drops.exists() and tokens.exists()):
        return None
    report = map_table(samples)[1]["report"]
    if tokens.stat().st_size != sum(report["tokens"]) * job.tokenizer.token_bytes:
        return None
    return ShardReport(**{**report, "ordinal": job.shard.ordinal, "source": job.shard.source})


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdicts:
    """What is kept of a shard, and what is fed of it. Arrays are by place; a dropped sample has zeros."""

    drops: list[Drop]
    checksums: NDArray[np.uint64]
    lengths: NDArray[np.int64]  # tokens
    sizes: NDArray[np.int64]  # bytes
    tokens: NDArray[Any]
    classes: list[int] = field(default_factory=list)


def _feed_tokens(job: ShardJob, index: ShardIndex, contents: Contents, splits: Splits) -> Verdicts:
    """Of each sample its text as tokens."""
    kept = read_kept(job.shard, index, job.rules, open_stores(job.stores), job.verdicts, splits.drops)
    lengths = np.zeros(len(index), np.int64)
    lengths[kept.places], tokens = _encode(kept.texts, job.tokenizer)
    checksums = np.stack([contents.high, contents.low], axis=1)
    return Verdicts(drops=kept.drops, checksums=checksums, lengths=lengths, sizes=np.zeros_like(lengths), tokens=tokens)


def _feed_members(job: ShardJob, index: ShardIndex, _: Contents, splits: Splits) -> Verdicts:
    """Of each sample the members of data.fields, as they are."""
    opened, rules = open_stores(job.stores).open(job.shard.url, index.stamp), job.rules
    opened.need_all()
    fed = check_members(opened.data, index, rules.fields)
    refuse_drops(job.shard, index, fed.drops, rules.on_bad, "data.fields")
    drops = list(job.verdicts or ())
    if job.verdicts is None:
        drops = judge_alone(opened.data, index, job.shard, rules, keep_first([*splits.drops, *fed.drops]))
    stays = np.ones(len(index), bool)
    stays[[drop.place for drop in drops]] = False
    trained_on = np.flatnonzero(stays & (splits.of == TRAIN)).tolist()
    return Verdicts(
        drops=drops,
        checksums=np.where(stays[:, None], fed.checksums, 0),
        lengths=np.zeros_like(fed.sizes),
        sizes=np.where(stays, fed.sizes, 0),
        tokens=np.empty(0, job.tokenizer.dtype),
        classes=count_classes(opened.data, index, job.shard, rules.labels, trained_on) if rules.labels else [],
    )


def _publish(
    job: ShardJob, index: ShardIndex, content: str, split: NDArray[np.uint8], verdicts: Verdicts
) -> ShardReport:
    """Tokens and drops, then the samples table with the report."""
    keys, drops, tokens = index.keys(), verdicts.drops, verdicts.tokens
    kept = np.ones(len(keys), np.uint8)
    kept[[drop.place for drop in drops]] = 0
    of_split = [(kept == 1) & (split == number) for number in range(len(SPLITS))]
    report = ShardReport(
        ordinal=job.shard.ordinal,
        source=job.shard.source,
        name=job.shard.name,
        content=content,
        verdicts=job.verdicts_id,
        samples=len(keys),
        bad_samples=sum(drop.rule in BROKEN for drop in drops),
        problem=index.problem,
        kept=[int(chosen.sum()) for chosen in of_split],
        tokens=[int(verdicts.lengths[chosen].sum()) for chosen in of_split],
        bytes=[int(verdicts.sizes[chosen].sum()) for chosen in of_split],
        tokens_checksum=xxhash.xxh3_128_hexdigest(tokens.tobytes()),
        classes=verdicts.classes,
    )
    if index.problem:
        drops = [*drops, Drop(WHOLE_SHARD, "bad shard", index.problem)]
    first = np.cumsum(verdicts.lengths) - verdicts.lengths
    columns = [keys, *verdicts.checksums.T, kept, split, first, verdicts.lengths, verdicts.sizes]
    table = pa.table(dict(zip(SAMPLES.names, columns, strict=True)), schema=SAMPLES)
    samples_path, drops_path, tokens_path = shard_files(job.folder, job.shard.name, content, report.verdicts)
    store_bytes(tokens_path, tokens.tobytes())
    rows = {name: [getattr(drop, name, None) for drop in drops] for name in DROPS.names}
    store_table(drops_path, pa.table(rows, schema=DROPS), {})
    lasting = {key: value for key, value in asdict(report).items() if key not in ("ordinal", "source")}
    store_table(samples_path, table, {"report": lasting})
    return report


def _encode(texts: list[str], info: TokenizerInfo) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Tokens of every text with its end mark, one after another, and how many each has."""
    tokenizer = open_tokenizer(info)
    lengths = np.zeros(len(texts), np.int64)
    parts: list[NDArray[Any]] = [np.empty(0, info.dtype)]
    for chunk in _in_chunks(texts):
        encodings = tokenizer.encode_batch_fast([piece.text for piece in chunk], add_special_tokens=False)
        for piece, encoding in zip(chunk, encodings, strict=True):
            parts.append(np.array([*encoding.ids, info.end_id] if piece.ends else encoding.ids, info.dtype))
            lengths[piece.number] += len(parts[-1])
    return lengths, np.concatenate(parts)


class _Piece(NamedTuple):
    number: int  # of its text
    text: str
    ends: bool  # with it the text ends


def _in_chunks(texts: list[str]) -> Iterator[list[_Piece]]:
    chunk: list[_Piece] = []
    size = 0
    for number, text in enumerate(texts):
        for begin, end in cut_text(text):
            chunk.append(_Piece(number, text[begin:end], end == len(text)))
            size += end - begin
            if size >= _CHUNK:
                yield chunk
                chunk, size = [], 0
    if chunk:
        yield chunk
