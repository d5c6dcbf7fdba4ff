"""Samples -> the bytes of their members, read straight from the shards and checked. Comes after order.py; sampled.py
decodes them.

Every sample's bytes are compared with the checksum that prepare left in the manifest, so that what is fed is what was
prepared, and one number proves both reading and feeding. No object is made for a sample but views into its shard."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
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
    """The verified bytes of samples: for each field, in the config's order, a view of each sample's member and which of
    the field's suffixes it has."""

    views: list[list[memoryview]]
    suffixes: list[list[str]]
    checksums: NDArray[np.uint64]  # a row of two numbers each, as the manifest has them
    read_bytes: int
    fetched: Fetched


class OpenShard(NamedTuple):
    """`rows` has for each place begin, end and suffix (a number, or NOT_KEPT) of each field's member, then the halves
    of the checksum; the last row stands for all places that the shard has not."""

    bytes: ShardBytes
    view: memoryview
    rows: Ints


class SampleReader:
    """Reads samples of one split. Any number of threads may."""

    def __init__(self, store: SampleStore, split: str, fields: Mapping[str, Sequence[str]], stores: Stores) -> None:
        self._store, self._split, self._stores = store, split, stores
        self.fields = list(fields)
        self._suffixes = list(fields.values())
        self._shards: OrderedDict[int, OpenShard] = OrderedDict()
        self._open_bytes, self._lock = 0, Lock()

    def read(self, ordinal: Ints, place: Ints) -> RawSamples:
        """The members of samples, which may come in any order; each shard is asked once, in the order of its file."""
        shards, table, fetched = self._fetch(ordinal, place)
        views, checksums = self._cut(shards, table)
        expected = np.ascontiguousarray(table[:, -2:]).view(np.uint64)
        for wrong in np.flatnonzero((checksums != expected).any(axis=1)).tolist():
            fetched += self._fetch_again(shards[wrong], table[wrong], int(ordinal[wrong]), int(place[wrong]))
        begins, ends = self._extents(table)
        return RawSamples(views, self._name_suffixes(table), expected, int((ends - begins).sum()), fetched)

    def name(self, ordinal: int, place: int) -> str:
        """A sample as people know it: shard/key."""
        return f"{self._store.shard_name(ordinal)}/{self._store.keys(ordinal, np.array([place]))[0]}"

    def _fetch(self, ordinal: Ints, place: Ints) -> tuple[list[OpenShard], Ints, Fetched]:
        """Of each sample its shard and its row of the shard's table; the bytes that these name are there then."""
        in_file = np.lexsort((place, ordinal))
        ordinals, places = ordinal[in_file], place[in_file]
        sorted_rows = np.empty((ordinal.size, 3 * len(self.fields) + 2), np.int64)
        cuts = (np.flatnonzero(np.diff(ordinals)) + 1).tolist()
        opened: dict[int, OpenShard] = {}
        fetched = Fetched()
        for begin, end in pairwise([0, *cuts, ordinal.size] if ordinal.size else []):
            number = int(ordinals[begin])
            shard = opened[number] = self._open(number)
            rows = sorted_rows[begin:end] = shard.rows.take(places[begin:end], axis=0, mode="clip")
            if NOT_KEPT in rows[:, 2]:
                raise self._not_kept(number, int(places[begin + rows[:, 2].argmin()]))
            fetched += shard.bytes.need(*self._extents(rows))
        table = np.empty_like(sorted_rows)
        table[in_file] = sorted_rows
        return [opened[number] for number in ordinal.tolist()], table, fetched

    def _extents(self, rows: Ints) -> tuple[Ints, Ints]:
        """Where the members of these rows begin and end, field after field."""
        return rows[:, :-2:3].T.ravel(), rows[:, 1:-2:3].T.ravel()

    def _cut(self, shards: list[OpenShard], rows: Ints) -> tuple[list[list[memoryview]], NDArray[np.uint64]]:
        """Views of the members by field, and the checksum that each sample's bytes have now."""
        whole = [shard.view for shard in shards]
        columns = rows.T.tolist()
        views, checksums = [], []
        for n in range(len(self.fields)):
            cut = [view[i:j] for view, i, j in zip(whole, columns[3 * n], columns[3 * n + 1], strict=True)]
            views.append(cut)
            checksums.append(join_checksums(list(map(sum_bytes, cut))))
        return views, fold_checksums(checksums)

    def _fetch_again(self, shard: OpenShard, row: Ints, ordinal: int, place: int) -> Fetched:
        """The bytes of one sample are not those that were prepared: once more from the store, if that may help."""
        begins, ends = self._extents(row[None])
        forgotten = [shard.bytes.forget(i, j) for i, j in zip(begins.tolist(), ends.tolist(), strict=True)]
        fetched = shard.bytes.need(begins, ends) if any(forgotten) else Fetched()
        if (self._cut([shard], row[None])[1] != row[-2:].view(np.uint64)).any():
            raise self._damaged(ordinal, place)
        return fetched

    def _name_suffixes(self, rows: Ints) -> list[list[str]]:
        """Of each field the suffixes that the members have."""
        named = []
        for n, suffixes in enumerate(self._suffixes):
            if len(suffixes) == 1:
                named.append([suffixes[0]] * len(rows))
            else:
                named.append([suffixes[number] for number in rows[:, 3 * n + 2].tolist()])
        return named

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
        rows = np.full((len(index) + 1, 3 * len(self.fields) + 2), NOT_KEPT, np.int64)
        for n, suffixes in enumerate(self._suffixes):
            found = index.find_members(suffixes)
            begin = found.begin[kept]
            rows[kept, 3 * n : 3 * n + 3] = np.stack([begin, begin + found.size[kept], found.suffix[kept]], axis=1)
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


def _weigh(shard: OpenShard) -> int:
    return shard.rows.nbytes + MAP_BYTES
