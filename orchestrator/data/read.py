"""Spans -> token ids, from the token sidecars of prepare. Comes after order.py; batch.py puts them into arrays."""

from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.errors import DataError
from orchestrator.core.words import Span
from orchestrator.data.ledger import TOKEN_BYTES, as_summed, join_checksums, sum_bytes
from orchestrator.data.unit import Ints

SHARDS_KEPT = 1024  # open maps; each costs two small arrays, the tokens stay in the page cache
GAP_TOKENS = 4096  # to widen as many for nothing costs less than a stretch of its own
BLOCK_TOKENS = 2**17  # widened, they stay in a core's cache
Tokens = NDArray[np.unsignedinteger[Any]]


class Tokenizer(Protocol):
    @property
    def end_id(self) -> int: ...


class TokenStore(Protocol):
    """What reading needs of a manifest."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    def tokens(self, ordinal: int) -> Tokens:
        """All tokens of a shard, memory-mapped."""
        ...

    def offsets(self, ordinal: int, split: str) -> Ints:
        """Where each kept sample's tokens begin."""
        ...

    def places(self, ordinal: int, split: str) -> Ints:
        """Place in the shard of each kept sample, ascending."""
        ...

    def shard_name(self, ordinal: int) -> str: ...


class OpenShard(NamedTuple):
    tokens: Tokens
    places: Ints
    offsets: Ints


class TokenReader:
    """Reads spans of one split."""

    def __init__(self, store: TokenStore, split: str) -> None:
        self._store, self._split = store, split
        self._open = lru_cache(SHARDS_KEPT)(self._open_shard)
        self.end_id = store.tokenizer.end_id

    def read(self, span: Span) -> Tokens:
        """The span's token ids: a view into the map, not a copy."""
        shard = self._open(span.ordinal)
        kept = int(np.searchsorted(shard.places, span.place))
        if kept == shard.places.size or shard.places[kept] != span.place:
            raise self._not_kept(span.ordinal, span.place)
        begin = int(shard.offsets[kept]) + span.first
        found = shard.tokens[begin : begin + span.count]
        if found.size != span.count:
            raise self._cut_short(span, found.size)
        return found

    def checksums(self, ordinal: Ints, place: Ints, first: Ints, count: Ints) -> NDArray[np.uint64]:
        """What ledger.py's `checksum` says of many spans, a row of two numbers each. Read in file order."""
        sums = np.empty((ordinal.size, 2), np.uint64)
        by_shard = np.argsort(ordinal << 32 | place)
        cuts = np.flatnonzero(np.diff(ordinal[by_shard])) + 1
        for here in np.split(by_shard, cuts) if ordinal.size else []:
            shard = self._open(int(ordinal[here[0]]))
            begins = self._find(shard, int(ordinal[here[0]]), place[here], first[here], count[here])
            in_file = np.argsort(begins)
            sums[here[in_file]] = _sum_stretches(shard.tokens, begins[in_file], count[here[in_file]])
        return sums

    def _find(self, shard: OpenShard, ordinal: int, places: Ints, firsts: Ints, counts: Ints) -> Ints:
        """Where the tokens of spans of one shard begin."""
        kept = np.searchsorted(shard.places, places)
        inside = kept < shard.places.size
        inside[inside] = shard.places[kept[inside]] == places[inside]
        if not inside.all():
            raise self._not_kept(ordinal, int(places[np.argmin(inside)]))
        begins = np.asarray(shard.offsets[kept] + firsts)
        if (begins + counts > shard.tokens.size).any():
            n = int(np.argmax(begins + counts > shard.tokens.size))
            span = Span(ordinal, int(places[n]), int(firsts[n]), int(counts[n]))
            raise self._cut_short(span, max(0, shard.tokens.size - int(begins[n])))
        return begins

    def _open_shard(self, ordinal: int) -> OpenShard:
        places, offsets = self._store.places(ordinal, self._split), self._store.offsets(ordinal, self._split)
        return OpenShard(self._store.tokens(ordinal), places, offsets)

    def _not_kept(self, ordinal: int, place: int) -> DataError:
        return self._unusable(ordinal, place, f"is not kept in split {self._split!r}")

    def _cut_short(self, span: Span, found: int) -> DataError:
        problem = f"has {found} of the {span.count} tokens from token {span.first} on"
        return self._unusable(span.ordinal, span.place, problem)

    def _unusable(self, ordinal: int, place: int, problem: str) -> DataError:
        return DataError(
            f"sample {place} {problem}",
            where=self._store.shard_name(ordinal),
            remedy="the prepared files have changed under the run: delete them under data.work and prepare again",
        )


def _sum_stretches(tokens: Tokens, begins: Ints, counts: Ints) -> NDArray[np.uint64]:
    """Checksums of stretches of a shard's tokens, sorted by where they begin. Neighbours are widened together."""
    if not begins.size:
        return np.empty((0, 2), np.uint64)
    reach = np.maximum.accumulate(begins + counts)
    apart = (begins[1:] > reach[:-1] + GAP_TOKENS) | (np.diff(begins // BLOCK_TOKENS) > 0)
    cuts = np.concatenate([[0], np.flatnonzero(apart) + 1, [begins.size]])
    bases, stops = begins[cuts[:-1]], reach[cuts[1:] - 1]
    at = (begins - np.repeat(bases, np.diff(cuts))) * TOKEN_BYTES
    first_byte, stop_byte = at.tolist(), (at + counts * TOKEN_BYTES).tolist()
    found: list[bytes] = []
    for (i, j), base, stop in zip(pairwise(cuts.tolist()), bases.tolist(), stops.tolist(), strict=True):
        data = as_summed(tokens[base:stop]).view(np.uint8).data
        found += [sum_bytes(data[begin:end]) for begin, end in zip(first_byte[i:j], stop_byte[i:j], strict=True)]
    return join_checksums(found)
