"""Checksums of what a shard holds: xxh3-128 of each sample, and one of the whole that padding, owners and times leave
alone.

After the index, before verdicts. This is what makes two copies of a shard the same shard."""

import io
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from orchestrator.core.errors import DataError
from orchestrator.core.words import ShardRef
from orchestrator.data.shards.index import OnBad, Piece, ShardIndex, index_shard
from orchestrator.storage.stores import BLOCK_BYTES, ShardBytes, Stores, StoreSettings, open_stores
from orchestrator.storage.tables import map_table, store_table
from orchestrator.storage.workplace import WorkPlace


@dataclass(frozen=True, kw_only=True)
class Contents:
    """`content` identifies the shard; `high` and `low` are the halves of each sample's checksum, in tar order."""

    content: str
    high: NDArray[np.uint64]
    low: NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True, slots=True)
class ContentJob:
    shard: ShardRef
    work: Path
    on_bad: OnBad
    stores: StoreSettings


def check_content(job: ContentJob) -> tuple[int, str]:
    """As a task over one shard: its ordinal and content checksum."""
    stores = open_stores(job.stores)
    index = index_shard(job.shard, job.work, job.on_bad, stores)
    return job.shard.ordinal, read_contents(job.shard, index, job.work, stores).content


def read_contents(shard: ShardRef, index: ShardIndex, work: Path, stores: Stores) -> Contents:
    """The checksums of a shard: found in the work place, or made and left there."""
    path = WorkPlace.at(work).contents(shard.url)
    if path.exists():
        table, note = map_table(path)
        if note["stamp"] == index.stamp:
            return Contents(content=note["content"], high=table["high"].to_numpy(), low=table["low"].to_numpy())
    opened = stores.open(shard.url, index.stamp)
    opened.need_all()
    contents = _hash_shard(opened.data, index)
    blocks = _hash_blocks(opened) if stores.is_remote(shard.url) else []
    if stores.has_changed(shard.url, index.stamp):
        raise DataError(
            "changed while it was read", where=shard.url, remedy="wait until the shard is written, then run again"
        )
    table = pa.table({"high": contents.high, "low": contents.low})
    note = {"url": shard.url, "stamp": index.stamp, "content": contents.content, "blocks": blocks}
    store_table(path, table, note)
    return contents


def find_blocks(url: str, stamp: str, work: Path) -> list[str]:
    """Checksums of the blocks of a remote shard, as they were when it was first read; none of a local one."""
    path = WorkPlace.at(work).contents(url)
    if not path.exists():
        return []
    note = map_table(path)[1]
    return list(note.get("blocks", [])) if note["stamp"] == stamp else []


def _hash_blocks(opened: ShardBytes) -> list[str]:
    view = memoryview(opened.data)
    return [xxhash.xxh3_128_hexdigest(view[at : at + BLOCK_BYTES]) for at in range(0, len(view), BLOCK_BYTES)]


def _hash_shard(data: mmap | bytes, index: ShardIndex) -> Contents:
    whole = xxhash.xxh3_128()
    if index.problem:
        whole.update(b"unreadable shard")
        whole.update(data)
    digests = io.BytesIO()
    view = memoryview(data)
    for key, pieces in zip(index.keys(), index.members(), strict=True):
        digest = _hash_sample(view, pieces)
        digests.write(digest)
        _update_framed(whole, key.encode())
        whole.update(digest)
    halves = np.frombuffer(digests.getvalue(), ">u8").astype(np.uint64).reshape(-1, 2)
    return Contents(content=whole.hexdigest(), high=halves[:, 0].copy(), low=halves[:, 1].copy())


def _hash_sample(view: memoryview, pieces: list[Piece]) -> bytes:
    digest = xxhash.xxh3_128()
    for piece in pieces:
        _update_framed(digest, piece.suffix.encode())
        digest.update(piece.size.to_bytes(8, "little"))
        digest.update(view[piece.offset : piece.offset + piece.size])
    return bytes(digest.digest())


def _update_framed(digest: "xxhash.xxh3_128", text: bytes) -> None:
    """With its length in front, so that no two lists of parts give the same bytes."""
    digest.update(len(text).to_bytes(8, "little"))
    digest.update(text)
