"""The chain of committed segments: its ids and the JSON heads that commit them. prepare/ writes, manifest.py reads."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from orchestrator.core.errors import DataError
from orchestrator.storage.publish import read_json
from orchestrator.storage.workplace import WorkPlace


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerInfo:
    """A tokenizer of the work place. `id` is the hash of its content; tokens are kept in `token_bytes` bytes each."""

    path: str
    id: str
    vocab_size: int
    end_id: int
    token_bytes: int

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(f"<u{self.token_bytes}")


NO_TOKENIZER = TokenizerInfo(path="", id="none", vocab_size=0, end_id=0, token_bytes=1)  # of samples that are not text


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentHead:
    """The small JSON file that commits a segment. `tables` holds the checksum of each of its tables."""

    number: int
    id: str
    previous: str
    ordinals: range
    append: range
    source_names: list[str]
    rules: str
    tokenizer: TokenizerInfo
    totals: dict[str, int]
    bad: dict[str, int]
    tables: dict[str, str]


def segment_id(previous: str, names: Iterable[str], contents: Iterable[str], rules: str, tokenizer_id: str) -> str:
    """xxh3-128 over length-prefixed parts."""
    digest = xxhash.xxh3_128()
    for part in [previous, rules, tokenizer_id, *(part for pair in zip(names, contents, strict=True) for part in pair)]:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def encode_head(head: SegmentHead) -> bytes:
    value = asdict(head)
    value["ordinals"], value["append"] = ([part.start, part.stop] for part in (head.ordinals, head.append))
    del value["tokenizer"]["path"]  # differs between copies of a work place
    return (json.dumps({"format": 1, **value}, indent=1, ensure_ascii=False) + "\n").encode()


def read_head(work: WorkPlace, path: Path) -> SegmentHead:
    value = read_json(path)
    try:
        del value["format"]
        value["ordinals"], value["append"] = range(*value["ordinals"]), range(*value["append"])
        value["tokenizer"] = _find_tokenizer(work, **value["tokenizer"])
        return SegmentHead(**value)
    except (KeyError, TypeError) as error:
        raise DataError(
            f"is damaged: {error}", where=str(path), remedy=f"delete {path} and run longhaul prepare again"
        ) from error


def _find_tokenizer(work: WorkPlace, **known: Any) -> TokenizerInfo:
    path = "" if known["id"] == NO_TOKENIZER.id else str(work.tokenizer(known["id"]) / "tokenizer.json")
    return TokenizerInfo(path=path, **known)


def read_heads(work: WorkPlace, chain: str, most: int | None = None) -> list[SegmentHead]:
    """The committed segments of a chain in order, or the first of them; none when there is no chain yet."""
    folder = work.chain(chain)
    present = {path.name for path in folder.glob("segment-*.json")}  # one listing, not a question a segment
    heads: list[SegmentHead] = []
    while len(heads) != most and (path := work.segment_head(chain, len(heads))).name in present:
        head = read_head(work, path)
        previous = heads[-1] if heads else None
        if head.previous != (previous.id if previous else "") or head.ordinals.start != (
            previous.ordinals.stop if previous else 0
        ):
            raise DataError(
                "does not follow the segment before it",
                where=str(path),
                remedy=f"delete {path.parent} and run longhaul prepare again",
            )
        heads.append(head)
    return heads
