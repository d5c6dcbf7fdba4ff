"""Spans -> token ids, from the token sidecars of prepare. Comes after order.py; batch.py puts them into arrays."""

from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.errors import DataError
from orchestrator.core.words import Span
from orchestrator.data.unit import Ints

SHARDS_KEPT = 1024  # open maps; each costs two small arrays, the tokens stay in the page cache
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
            raise self._unusable(span, f"is not kept in split {self._split!r}")
        begin = int(shard.offsets[kept]) + span.first
        found = shard.tokens[begin : begin + span.count]
        if found.size != span.count:
            raise self._unusable(span, f"has {found.size} of the {span.count} tokens from token {span.first} on")
        return found

    def _open_shard(self, ordinal: int) -> OpenShard:
        places, offsets = self._store.places(ordinal, self._split), self._store.offsets(ordinal, self._split)
        return OpenShard(self._store.tokens(ordinal), places, offsets)

    def _unusable(self, span: Span, problem: str) -> DataError:
        return DataError(
            f"sample {span.place} {problem}",
            where=self._store.shard_name(span.ordinal),
            remedy="the prepared files have changed under the run: delete them under data.work and prepare again",
        )
