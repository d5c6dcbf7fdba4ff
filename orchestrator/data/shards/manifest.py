"""The data as training sees it: an append-only chain of prepared segments, and what is kept of every shard.

After prepare/, before order.py. `id = H(previous id, shard names, content checksums, rules, tokenizer)`, so equal ids
mean equal samples wherever the data lies. A run's manifest.json names the prefix of the chain it uses; the tables and
token sidecars lie in the work place (layout: storage/workplace.py) and are mapped into memory when asked for."""

import mmap
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from orchestrator.core.errors import DataError
from orchestrator.core.words import ShardRef
from orchestrator.data.shards.chain import NO_TOKENIZER, SegmentHead, TokenizerInfo, read_heads
from orchestrator.data.shards.segments import SampleColumns, SegmentTables
from orchestrator.data.shards.split import SPLITS
from orchestrator.storage.publish import read_json
from orchestrator.storage.workplace import WorkPlace, name_prepared, prepared_file, store_json

if TYPE_CHECKING:
    import pyarrow as pa

Ints = NDArray[np.int64]


class Manifest:
    """Read side of a chain's prefix. Arrays are indexed by ordinal or list a shard's kept samples in place order."""

    def __init__(
        self,
        work: WorkPlace,
        chain: str,
        heads: list[SegmentHead],
        roots: Mapping[str, str],
        segments_to_come: int = 0,
        file: Path | None = None,
    ) -> None:
        """`file`: the manifest.json that names segments as they come; see grow."""
        self.work, self.chain, self.segments, self.roots = work, chain, heads, dict(roots)
        self.segments_to_come, self._file = segments_to_come, file
        self._tables = SegmentTables(work, chain, heads)
        self._tokens = lru_cache(maxsize=1024)(self._map_tokens)

    def __reduce__(self) -> tuple[Any, ...]:
        parts = (self.work, self.chain, self.segments, self.roots, self.segments_to_come, self._file)
        return type(self), parts  # maps stay behind

    @classmethod
    def of_chain(cls, work: Path, chain: str, roots: Mapping[str, str] | None = None) -> "Manifest":
        """All that is committed. `roots` says where the raw shards of each source lie, for those who read them."""
        place = WorkPlace.at(work)
        heads = read_heads(place, chain)
        if not heads:
            raise DataError("no segment is prepared", where=str(place.chain(chain)), remedy="run longhaul prepare")
        return cls(place, chain, heads, roots or {})

    @classmethod
    def load(cls, path: Path) -> "Manifest":
        """A run's manifest.json."""
        value = read_json(path)
        place = WorkPlace.at(value["work"])
        ids = value["segments"]
        heads = read_heads(place, value["chain"], most=len(ids))
        to_come = value.get("expected", len(ids)) - len(ids)
        manifest = cls(place, value["chain"], heads, value["roots"], to_come, path)
        manifest.check_prefix(ids)
        return manifest

    @classmethod
    def catch_up(cls, path: Path) -> "Manifest":
        """Have a run's manifest.json name what has been committed meanwhile of the segments it expects."""
        known = cls.load(path)
        if known.segments_to_come and known.work.segment_head(known.chain, len(known.segments)).exists():
            committed = cls.of_chain(known.work.root, known.chain, known.roots)
            committed.check_prefix(known.ids)
            known = committed.first(len(known.segments) + known.segments_to_come)
            known.write(path)
        return known

    def grow(self) -> bool:
        """Take in what manifest.json names since it was loaded; whether that was anything. What was known stays as it
        is, so other threads may go on reading."""
        if not self.segments_to_come or self._file is None:
            return False
        ids = read_json(self._file)["segments"]
        heads = read_heads(self.work, self.chain, most=len(ids))  # a shared folder may show the last ones later
        if len(heads) <= len(self.segments):
            return False
        Manifest(self.work, self.chain, heads, self.roots).check_prefix(ids[: len(heads)])
        self.segments_to_come -= len(heads) - len(self.segments)
        self._tables, self.segments = self._tables.extended(heads), heads
        return True

    def write(self, path: Path) -> None:
        """A run's manifest.json: which prefix of which chain it uses."""
        tokenizer = {key: value for key, value in asdict(self.tokenizer).items() if key != "path"}
        counts = {
            split: {"samples": self._total(f"kept_{split}"), "tokens": self._total(f"tokens_{split}")}
            for split in SPLITS
        }
        value = {
            "format": 1,
            "work": str(self.work.root),
            "chain": self.chain,
            "segments": self.ids,
            "expected": len(self.segments) + self.segments_to_come,
            "sources": self.source_names,
        }
        store_json(
            path, {**value, "roots": self.roots, "shards": self.num_shards, "counts": counts, "tokenizer": tokenizer}
        )

    @property
    def ids(self) -> list[str]:
        return [head.id for head in self.segments]

    @property
    def chain_id(self) -> str:
        """The id of the last segment; it covers everything before it."""
        return self.segments[-1].id

    @property
    def num_shards(self) -> int:
        return self.segments[-1].ordinals.stop

    @property
    def source_names(self) -> list[str]:
        return self.segments[0].source_names

    @property
    def tokenizer(self) -> TokenizerInfo:
        return self.segments[0].tokenizer

    @property
    def has_tokenizer(self) -> bool:
        """Whether texts become tokens: here, or when samples are fed as they lie in the shards."""
        return self.tokenizer != NO_TOKENIZER

    def statistics(self) -> dict[str, Any]:
        """Figures of the first segment's columns, and what is done by them to values that are fed: of tables only."""
        path = self.work.statistics(self.chain)
        if not path.exists():
            raise DataError(
                "is gone, and rows of tables are fed by it",
                where=str(path),
                remedy=f"delete {path.parent} and run longhaul prepare again",
            )
        found: dict[str, Any] = read_json(path)
        return found

    def class_counts(self, classes: int) -> list[int]:
        """Kept training samples of each class, where preparing has counted them."""
        return [sum(head.totals.get(f"class_{number}", 0) for head in self.segments) for number in range(classes)]

    @property
    def sample_bytes(self) -> int:
        """Mean size of what is read of a training sample, by the first segment: however much is prepared, it stays."""
        totals = self.segments[0].totals
        return totals["bytes_train"] // max(1, totals["kept_train"])

    def check_prefix(self, ids: list[str]) -> None:
        """Raise unless this chain begins with the segments `ids`."""
        for number, expected in enumerate(ids):
            found = self.segments[number].id if number < len(self.segments) else "missing"
            if found != expected:
                raise DataError(
                    f"the data is not what the run began with: segment {number} is {found}, the run used {expected}",
                    where=str(self.work.chain(self.chain)),
                    remedy="give the run the data, work place and prepare settings it began with (adding shards is "
                    "fine), run longhaul prepare again if the work place was deleted, or start a new run",
                )

    def first(self, count: int) -> "Manifest":
        """The chain's first `count` segments: what a run goes on with, although more data may have come. Those that are
        not prepared yet are to come."""
        heads = self.segments[:count]
        return Manifest(self.work, self.chain, heads, self.roots, count - len(heads))

    def segments_of(self, source: int) -> list[Ints]:
        """The ordinals of one source, by segment."""
        of_source = self._tables.column("source") == source
        return [
            np.flatnonzero(of_source[head.ordinals.start : head.ordinals.stop]) + head.ordinals.start
            for head in self.segments
        ]

    def totals(self, split: str) -> Ints:
        """Tokens of the kept samples of a split, by ordinal."""
        return self._tables.column(f"tokens_{split}").astype(np.int64)

    def kept(self, split: str) -> Ints:
        """Kept samples of a split, by ordinal."""
        return self._tables.column(f"kept_{split}").astype(np.int64)

    def sizes(self, split: str) -> Ints:
        """Bytes of the members that are fed of the kept samples of a split, by ordinal; 0 of samples fed as tokens."""
        return self._tables.column(f"bytes_{split}").astype(np.int64)

    def places(self, ordinal: int, split: str) -> Ints:
        """Where in the shard its kept samples of a split stand."""
        samples, rows = self._tables.rows_of(ordinal)
        return np.flatnonzero((samples.kept[rows] == 1) & (samples.split[rows] == SPLITS.index(split)))

    def lengths(self, ordinal: int, split: str) -> Ints:
        """Tokens of each kept sample of a split."""
        return self._pick(ordinal, split, "tokens").astype(np.int64)

    def offsets(self, ordinal: int, split: str) -> Ints:
        """Where in the token sidecar each kept sample of a split begins."""
        return self._pick(ordinal, split, "first")

    def checksums(self, ordinal: int, split: str) -> NDArray[np.uint64]:
        """What each kept sample of a split must give when its bytes are read: a row of two numbers each, high and low.

        Of samples fed as tokens it is the xxh3-128 of all their bytes; of others, of the members that are fed."""
        return np.stack([self._pick(ordinal, split, f"checksum_{half}") for half in ("high", "low")], axis=1)

    def checksums_at(self, ordinals: Ints, places: Ints, split: str) -> NDArray[np.uint64]:
        """The same of many samples, wherever they stand. DataError names one that is not kept in the split."""
        number = self._tables.segments_of(ordinals)
        row = self._tables.column("first_row")[ordinals] + places
        inside = (places >= 0) & (places < self._tables.column("samples")[ordinals])
        sums = np.empty((ordinals.size, 2), np.uint64)
        for segment in np.unique(number).tolist():
            here = np.flatnonzero((number == segment) & inside)
            samples, rows = self._tables.samples(segment), row[here]
            sums[here, 0], sums[here, 1] = samples.checksum_high[rows], samples.checksum_low[rows]
            inside[here] = (samples.kept[rows] == 1) & (samples.split[rows] == SPLITS.index(split))
        if not inside.all():
            n = int(np.argmin(inside))
            raise DataError(
                f"sample {places[n]} is not kept in split {split!r}", where=self.shard_name(int(ordinals[n]))
            )
        return sums

    def keys(self, ordinal: int, places: Ints | None = None) -> list[str]:
        """The keys of a shard's samples, or of those at `places`."""
        samples, rows = self._tables.rows_of(ordinal)
        column = samples.key.slice(rows.start, rows.stop - rows.start)
        return list((column if places is None else column.take(places)).to_pylist())

    def samples(self, number: int) -> SampleColumns:
        """All samples of a segment, kept or not, shard after shard in the order of ordinals."""
        return self._tables.samples(number)

    def drops(self, number: int) -> "pa.Table":
        """Why samples of a segment were dropped."""
        return self._tables.drops(number)

    def segment_of(self, ordinal: int) -> int:
        return self._tables.segment_of(ordinal)

    def shard_sizes(self, number: int) -> Ints:
        """How many samples each shard of a segment has, kept or not."""
        ordinals = self.segments[number].ordinals
        return self._tables.column("samples")[ordinals.start : ordinals.stop].astype(np.int64)

    def shard_sources(self, number: int) -> Ints:
        """The source of each shard of a segment."""
        ordinals = self.segments[number].ordinals
        return self._tables.column("source")[ordinals.start : ordinals.stop].astype(np.int64)

    def tokens(self, ordinal: int) -> NDArray[Any]:
        """The shard's tokens, mapped into memory."""
        return self._tokens(ordinal)

    def check_tokens(self, ordinal: int) -> None:
        """Raise unless the token sidecar has the bytes that were written."""
        found = xxhash.xxh3_128_hexdigest(self.tokens(ordinal).tobytes())
        if found != self._tables.text("tokens_checksum", ordinal):
            raise self._damaged(self.tokens_path(ordinal), "its checksum differs")

    def tokens_path(self, ordinal: int) -> Path:
        folder = self.work.prepared(self.segments[0].rules, self.tokenizer.id)
        of_shard = name_prepared(self._tables.text("content", ordinal), self._tables.text("verdicts", ordinal))
        return prepared_file(folder, self.shard_name(ordinal), of_shard, ".tokens")

    def shard_name(self, ordinal: int) -> str:
        return self._tables.text("name", ordinal)

    def shard_names(self) -> list[str]:
        return self._tables.texts("name")

    def contents(self) -> list[str]:
        """Content checksums of the shards, by ordinal."""
        return self._tables.texts("content")

    def shard(self, ordinal: int) -> ShardRef:
        """The raw shard, where this copy of the data has it."""
        name = self.shard_name(ordinal)
        source = int(self._tables.column("source")[ordinal])
        label = self.source_names[source]
        url = f"{self.roots[label]}/{name.removeprefix(f'{label}/')}"
        if "://" in url:
            return ShardRef(ordinal=ordinal, source=source, name=name, url=url, size_bytes=0)
        try:
            size = Path(url).stat().st_size
        except OSError as error:
            raise DataError(
                f"shard {name} cannot be read: {error.strerror}", where=url, remedy="put the shard back"
            ) from error
        return ShardRef(ordinal=ordinal, source=source, name=name, url=url, size_bytes=size)

    def _total(self, what: str) -> int:
        return sum(head.totals[what] for head in self.segments)

    def _pick(self, ordinal: int, split: str, column: str) -> NDArray[Any]:
        samples, rows = self._tables.rows_of(ordinal)
        picked: NDArray[Any] = getattr(samples, column)[rows][self.places(ordinal, split)]
        return picked

    def _map_tokens(self, ordinal: int) -> NDArray[Any]:
        path = self.tokens_path(ordinal)
        count = sum(int(self._tables.column(f"tokens_{split}")[ordinal]) for split in SPLITS)
        try:
            with path.open("rb") as file:
                size = path.stat().st_size
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        except OSError as error:
            raise self._damaged(path, error.strerror or str(error)) from error
        if size != count * self.tokenizer.token_bytes:
            raise self._damaged(path, f"it has {size} bytes for {count} tokens")
        return np.frombuffer(data, self.tokenizer.dtype)

    def _damaged(self, path: Path, why: str) -> DataError:
        return DataError(
            f"token file cannot be used: {why}", where=str(path), remedy=f"delete {path} and run longhaul prepare again"
        )
