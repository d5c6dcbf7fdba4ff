"""Spans -> token ids, from the token sidecars of prepare. Comes after order.py; packed.py feeds them."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.errors import DataError
from orchestrator.core.words import Span
from orchestrator.data.ordering.ledger import TOKEN_BYTES, as_summed, join_checksums, sum_bytes
from orchestrator.data.ordering.unit import Ints

SHARDS_KEPT = 1024  # open maps; each costs a number a sample, the tokens stay in the page cache
NOT_KEPT = -1
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
    """`begins` has by place where a sample's tokens begin, NOT_KEPT where it has none; the last one stands for all
    places that the shard has not."""

    tokens: Tokens
    begins: Ints


class TokenReader:
    """Reads spans of one split."""

    def __init__(self, store: TokenStore, split: str) -> None:
        self._store, self._split = store, split
        self._open = lru_cache(SHARDS_KEPT)(self._open_shard)
        self.end_id = store.tokenizer.end_id

    def fill(self, out: NDArray[np.int64], at: Ints, span: Sequence[Ints]) -> int:
        """Put the tokens of many spans (columns as in Span) into `out`, each from `at` on; returns the bytes read."""
        read_bytes = 0
        for tokens, here, begins in self._locate(*span):
            counts = span[3][here]
            for begin, count, to in zip(begins.tolist(), counts.tolist(), at[here].tolist(), strict=True):
                out[to : to + count] = tokens[begin : begin + count]
            read_bytes += int(counts.sum()) * tokens.itemsize
        return read_bytes

    def checksums(self, ordinal: Ints, place: Ints, first: Ints, count: Ints) -> NDArray[np.uint64]:
        """What ledger.py's `checksum` says of many spans, a row of two numbers each."""
        sums = np.empty((ordinal.size, 2), np.uint64)
        for tokens, here, begins in self._locate(ordinal, place, first, count):
            in_file = np.argsort(begins)
            sums[here[in_file]] = _sum_stretches(tokens, begins[in_file], count[here[in_file]])
        return sums

    def _locate(self, ordinal: Ints, place: Ints, first: Ints, count: Ints) -> Iterator[tuple[Tokens, Ints, Ints]]:
        """Shard after shard: its tokens, which of the spans are its, and where they begin in it."""
        by_shard = np.argsort(ordinal << 32 | place)
        cuts = [0, *(np.flatnonzero(np.diff(ordinal[by_shard])) + 1).tolist(), ordinal.size]
        for i, j in pairwise(cuts if ordinal.size else []):
            here = by_shard[i:j]
            number = int(ordinal[here[0]])
            shard = self._open(number)
            yield shard.tokens, here, self._find(shard, number, place[here], first[here], count[here])

    def _find(self, shard: OpenShard, ordinal: int, places: Ints, firsts: Ints, counts: Ints) -> Ints:
        """Where the tokens of spans of one shard begin."""
        documents = shard.begins.take(places, mode="clip")
        if documents.min() == NOT_KEPT:
            raise self._not_kept(ordinal, int(places[documents.argmin()]))
        begins = documents + firsts
        ends = begins + counts
        if ends.max() > shard.tokens.size:
            n = int(ends.argmax())
            span = Span(ordinal, int(places[n]), int(firsts[n]), int(counts[n]))
            raise self._cut_short(span, max(0, shard.tokens.size - int(begins[n])))
        return begins

    def _open_shard(self, ordinal: int) -> OpenShard:
        places = self._store.places(ordinal, self._split)
        begins = np.full(int(places.max(initial=-1)) + 2, NOT_KEPT, np.int64)
        begins[places] = self._store.offsets(ordinal, self._split)
        return OpenShard(self._store.tokens(ordinal), begins)

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
    wide = np.empty(int((stops - bases).max()), as_summed(tokens[:0]).dtype)  # one memory for all
    data = wide.view(np.uint8).data
    for (i, j), base, stop in zip(pairwise(cuts.tolist()), bases.tolist(), stops.tolist(), strict=True):
        wide[: stop - base] = tokens[base:stop]
        found += [sum_bytes(data[begin:end]) for begin, end in zip(first_byte[i:j], stop_byte[i:j], strict=True)]
    return join_checksums(found)
