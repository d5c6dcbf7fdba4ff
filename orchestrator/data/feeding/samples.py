"""Samples -> the bytes of their members, read straight from the shards and checked. Comes after order.py; sampled.py
decodes them.

Every sample's bytes are compared with the checksum that prepare left in the manifest, so that what is fed is what was
prepared, and one number proves both reading and feeding. No object is made for a sample but views into its shard."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from threading import Lock
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.errors import DataError
from orchestrator.core.words import ShardRef
from orchestrator.data.ordering.ledger import fold_checksums, join_checksums, sum_bytes
from orchestrator.data.ordering.unit import Ints
from orchestrator.data.shards.contents import find_blocks
from orchestrator.data.shards.index import find_index
from orchestrator.storage.shard import Fetched, ShardBytes
from orchestrator.storage.stores import Stores
from orchestrator.storage.workplace import WorkPlace

PIECE_BYTES = 2**19  # checked and decoded together, so that decoding finds them in a core's cache
OPEN_BYTES = 2**28  # of open shards' tables: 250 shards of 10,000 samples with two fields, or 2,500 of 1,000
MAP_BYTES = 2**14  # an open shard counts for at least this much, which bounds the number of maps
NOT_KEPT = -1


class SampleStore(Protocol):
    """What reading needs of a manifest."""

    work: WorkPlace

    def places(self, ordinal: int, split: str) -> Ints: ...
    def checksums(self, ordinal: int, split: str) -> NDArray[np.uint64]: ...
    def keys(self, ordinal: int, places: Ints | None = None) -> list[str]: ...
    def shard(self, ordinal: int) -> ShardRef: ...
    def shard_name(self, ordinal: int) -> str: ...


class RawSamples(NamedTuple):
    """The verified bytes of some samples that follow each other: for each field, in the config's order, a view of each
    sample's member and which of the field's suffixes it has."""

    views: list[list[memoryview]]
    suffixes: list[list[str]]
    checksums: NDArray[np.uint64]  # a row of two numbers each, as the manifest has them
    read_bytes: int
    fetched: Fetched


class OpenShard(NamedTuple):
    """`rows` has for each place the begins, the ends and the suffixes (a number, or NOT_KEPT) of the fields' members,
    then the halves of the checksum; the last row stands for all places that the shard has not."""

    bytes: ShardBytes
    view: memoryview
    rows: Ints


class SampleReader:
    """Reads samples of one split. Any number of threads may."""

    def __init__(self, store: SampleStore, split: str, fields: Mapping[str, Sequence[str]], stores: Stores) -> None:
        self._store, self._split, self._stores = store, split, stores
        self.fields = list(fields)
        self._suffixes = list(map(list, fields.values()))
        self._columns = [len(fields), 2 * len(fields), 3 * len(fields)]  # where an OpenShard's kinds of columns end
        self._shards: OrderedDict[int, OpenShard] = OrderedDict()
        self._open_bytes, self._lock = 0, Lock()

    def read(self, ordinal: Ints, place: Ints) -> RawSamples:
        """The members of samples, which may come in any order; each shard is asked once, in the order of its file."""
        (whole,) = self.read_pieces(ordinal, place, at_once=max(1, ordinal.size))
        return whole

    def read_pieces(self, ordinal: Ints, place: Ints, at_once: int | None = None) -> Iterator[RawSamples]:
        """The same in pieces of so many samples, or of PIECE_BYTES."""
        shards, table, fetched = self._fetch(ordinal, place)
        begins, ends, suffixes, checksums = np.split(table, self._columns, axis=1)
        expected = np.ascontiguousarray(checksums).view(np.uint64)
        read_bytes = (ends - begins).sum(axis=1)
        at_once = at_once or max(1, PIECE_BYTES * ordinal.size // max(1, int(read_bytes.sum())))
        for begin in range(0, max(1, ordinal.size), at_once):
            piece = slice(begin, begin + at_once)
            views, found = _cut(shards[piece], begins[piece], ends[piece])
            if (found != expected[piece]).any():
                for wrong in np.flatnonzero((found != expected[piece]).any(axis=1)) + begin:
                    fetched += self._fetch_again(shards[wrong], table[wrong], int(ordinal[wrong]), int(place[wrong]))
            names = self._name_suffixes(suffixes[piece])
            yield RawSamples(views, names, expected[piece], int(read_bytes[piece].sum()), fetched)
            fetched = Fetched()

    def name(self, ordinal: int, place: int) -> str:
        """A sample as people know it: shard/key."""
        return f"{self._store.shard_name(ordinal)}/{self._store.keys(ordinal, np.array([place]))[0]}"

    def _fetch(self, ordinal: Ints, place: Ints) -> tuple[list[OpenShard], Ints, Fetched]:
        """Of each sample its shard and its row of the shard's table; the bytes that these name are there then."""
        in_file = np.argsort(ordinal << 32 | place)
        places = place[in_file]
        cuts = [0, *(np.flatnonzero(np.diff(ordinal[in_file])) + 1).tolist(), ordinal.size]
        numbers = ordinal[in_file[cuts[:-1]]].tolist() if ordinal.size else []
        opened = list(map(self._open, numbers))
        rows = np.empty((ordinal.size, self._columns[-1] + 2), np.int64)
        for shard, (begin, end) in zip(opened, pairwise(cuts), strict=False):
            shard.rows.take(places[begin:end], axis=0, mode="clip", out=rows[begin:end])
        begins, ends, suffixes, _ = np.split(rows, self._columns, axis=1)
        if NOT_KEPT in suffixes:
            n = int(suffixes.min(axis=1).argmin())
            raise self._not_kept(int(ordinal[in_file[n]]), int(places[n]))
        fetched = Fetched()
        for shard, (begin, end) in zip(opened, pairwise(cuts), strict=False):
            fetched += shard.bytes.need(begins[begin:end].T.ravel(), ends[begin:end].T.ravel())
        table, shard_of = np.empty_like(rows), np.empty_like(ordinal)
        table[in_file], shard_of[in_file] = rows, np.repeat(np.arange(len(opened)), np.diff(cuts))
        return [opened[n] for n in shard_of.tolist()], table, fetched

    def _fetch_again(self, shard: OpenShard, row: Ints, ordinal: int, place: int) -> Fetched:
        """The bytes of one sample are not those that were prepared: once more from the store, if that may help."""
        begins, ends, _, expected = np.split(row, self._columns)
        forgotten = [shard.bytes.forget(i, j) for i, j in zip(begins.tolist(), ends.tolist(), strict=True)]
        fetched = shard.bytes.need(begins, ends) if any(forgotten) else Fetched()
        if (_cut([shard], begins[None], ends[None])[1] != expected.view(np.uint64)).any():
            raise self._damaged(ordinal, place)
        return fetched

    def _name_suffixes(self, numbers: Ints) -> list[list[str]]:
        """Of each field the suffixes that the members have."""
        return [
            suffixes * len(numbers) if len(suffixes) == 1 else [suffixes[n] for n in numbers[:, field].tolist()]
            for field, suffixes in enumerate(self._suffixes)
        ]

    # ---- open shards ----

    def _open(self, ordinal: int) -> OpenShard:
        with self._lock:
            found = self._shards.get(ordinal)
            if found is not None:
                self._shards.move_to_end(ordinal)
                return found
        opened = self._open_shard(ordinal)  # two threads may both do so; one of the two stays
        with self._lock:
            found = self._shards.setdefault(ordinal, opened)
            self._open_bytes += _weigh(opened) if found is opened else 0
            while self._open_bytes > OPEN_BYTES and len(self._shards) > 1:
                self._open_bytes -= _weigh(self._shards.popitem(last=False)[1])
        return found

    def _open_shard(self, ordinal: int) -> OpenShard:
        url = self._store.shard(ordinal).url
        work = self._store.work.root
        index = find_index(url, work)
        opened = self._stores.open(url, index.stamp, find_blocks(url, index.stamp, work))
        kept = self._store.places(ordinal, self._split)
        rows = np.full((len(index) + 1, self._columns[-1] + 2), NOT_KEPT, np.int64)
        begins, ends, suffixes, _ = np.split(rows, self._columns, axis=1)
        for n, wanted in enumerate(self._suffixes):
            found = index.find_members(wanted)
            begins[kept, n], suffixes[kept, n] = found.begin[kept], found.suffix[kept]
            ends[kept, n] = found.begin[kept] + found.size[kept]
        rows[kept, -2:] = self._store.checksums(ordinal, self._split).view(np.int64)
        return OpenShard(opened, memoryview(opened.data), rows)

    # ---- problems ----

    def _not_kept(self, ordinal: int, place: int) -> DataError:
        return DataError(
            f"sample {place} is not kept in split {self._split!r}, or its members are gone",
            where=self._where(ordinal),
            remedy="the prepared files have changed under the run: delete them under data.work and prepare again",
        )

    def _damaged(self, ordinal: int, place: int) -> DataError:
        (key,) = self._store.keys(ordinal, np.array([place]))
        return DataError(
            f"the bytes of sample {key} are not those that were prepared",
            where=self._where(ordinal),
            remedy="put the shard back as it was, then resume the run; if it was changed on purpose, prepare it again "
            "and start a new run",
        )

    def _where(self, ordinal: int) -> str:
        shard = self._store.shard(ordinal)
        return f"{shard.name} ({shard.url})"


def _cut(shards: list[OpenShard], begins: Ints, ends: Ints) -> tuple[list[list[memoryview]], NDArray[np.uint64]]:
    """Views of samples' members by field, and the checksum that each sample's bytes have now."""
    views, checksums = [], []
    for begin, end in zip(begins.T.tolist(), ends.T.tolist(), strict=True):
        cut = [shard.view[i:j] for shard, i, j in zip(shards, begin, end, strict=True)]
        views.append(cut)
        checksums.append(join_checksums(list(map(sum_bytes, cut))))
    return views, fold_checksums(checksums)


def _weigh(shard: OpenShard) -> int:
    return shard.rows.nbytes + MAP_BYTES
