"""The tables of a chain's segments: numbers of all shards as compact columns, samples of the segments in use as maps.

Below manifest.py. A chain may have 10^6 shards in thousands of segments: numbers are narrowed to the bytes they need,
names stay on disk until they are asked for, and every table is compared with its checksum once a process."""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from orchestrator.core.errors import DataError
from orchestrator.data.shards.chain import SegmentHead
from orchestrator.storage.workplace import WorkPlace

if TYPE_CHECKING:  # costs a sixth of a second, which commands that read no table need not spend
    import pyarrow as pa

Ints = NDArray[np.int64]
Numbers = NDArray[np.integer[Any]]
SHARD_TABLES_KEPT = 256  # maps of some 100 KB
SAMPLE_TABLES_KEPT = 1024
READ_BYTES = 2**22


class SampleColumns(NamedTuple):
    """The samples of a segment, shard after shard: views into the mapped table."""

    key: "pa.ChunkedArray"
    kept: NDArray[np.uint8]
    split: NDArray[np.uint8]
    first: NDArray[np.int64]
    tokens: NDArray[np.uint32]
    checksum_high: NDArray[np.uint64]
    checksum_low: NDArray[np.uint64]


class SegmentTables:
    """What the tables say, by ordinal."""

    def __init__(self, work: WorkPlace, chain: str, heads: Sequence[SegmentHead]) -> None:
        self._work, self._chain, self._heads = work, chain, heads
        self._starts = np.array([head.ordinals.start for head in heads])
        self._verified: set[tuple[str, int]] = set()
        self._shards = lru_cache(SHARD_TABLES_KEPT)(self._map_shards)
        self.samples = lru_cache(SAMPLE_TABLES_KEPT)(self._map_samples)

    def extended(self, heads: Sequence[SegmentHead]) -> "SegmentTables":
        """Those of a longer chain that begins with this one."""
        longer = SegmentTables(self._work, self._chain, heads)
        longer._verified |= self._verified
        return longer

    def column(self, name: str) -> Numbers:
        """A number of every shard, in as few bytes as hold the largest. `first_row` is where in its segment's samples
        a shard's begin."""
        return self._columns[name]

    def text(self, name: str, ordinal: int) -> str:
        number = self.segment_of(ordinal)
        return str(self._shards(number)[name][ordinal - self._heads[number].ordinals.start].as_py())

    def texts(self, name: str) -> list[str]:
        """A text of every shard."""
        return [text for number in range(len(self._heads)) for text in self._map_shards(number)[name].to_pylist()]

    def segment_of(self, ordinal: int) -> int:
        return int(np.searchsorted(self._starts, ordinal, side="right")) - 1

    def segments_of(self, ordinals: Ints) -> Ints:
        return np.searchsorted(self._starts, ordinals, side="right") - 1

    def rows_of(self, ordinal: int) -> tuple[SampleColumns, slice]:
        """The samples of a shard's segment, and which of them are the shard's."""
        first = int(self.column("first_row")[ordinal])
        return self.samples(self.segment_of(ordinal)), slice(first, first + int(self.column("samples")[ordinal]))

    @cached_property
    def _columns(self) -> dict[str, Numbers]:
        parts: dict[str, list[Numbers]] = {}
        for number in range(len(self._heads)):
            for name, values in _numbers_of(self._map_shards(number)).items():
                parts.setdefault(name, []).append(values.astype(np.min_scalar_type(values.max(initial=0))))
        return {name: np.concatenate(of_segments) for name, of_segments in parts.items()}

    def drops(self, number: int) -> "pa.Table":
        """What a segment's samples were dropped for, with partners; place -1 says something of a whole shard."""
        return self._map("drops", number)

    def _map_shards(self, number: int) -> "pa.Table":
        return self._map("shards", number)

    def _map_samples(self, number: int) -> SampleColumns:
        table = self._map("samples", number)
        numbers = (_as_numpy(table[name]) for name in SampleColumns._fields[1:])
        return SampleColumns(table["key"], *numbers)

    def _map(self, name: str, number: int) -> "pa.Table":
        from orchestrator.storage.tables import map_table

        path = self._work.segment_table(self._chain, number, name)
        remedy = f"delete {path if name != 'shards' else path.parent} and run longhaul prepare again"
        table = map_table(path, remedy=remedy)[0]
        if (name, number) not in self._verified:
            digest = xxhash.xxh3_128()
            with path.open("rb") as file:  # not through the map, whose pages would count as our memory
                while some := file.read(READ_BYTES):
                    digest.update(some)
            if digest.hexdigest() != self._heads[number].tables[name]:
                raise DataError("is damaged: its checksum differs", where=str(path), remedy=remedy)
            self._verified.add((name, number))
        return table


def _numbers_of(shards: "pa.Table") -> dict[str, Numbers]:
    import pyarrow as pa

    numbers = {name: _as_numpy(shards[name]) for name in shards.column_names if pa.types.is_integer(shards[name].type)}
    return numbers | {"first_row": np.cumsum(numbers["samples"]) - numbers["samples"]}


def _as_numpy(column: "pa.ChunkedArray") -> Any:
    """Without a copy: tables are written in one chunk."""
    if column.num_chunks == 1:
        return column.chunk(0).to_numpy()
    return column.to_numpy()
