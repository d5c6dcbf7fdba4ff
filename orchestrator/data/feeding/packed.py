"""Batches of packed tokens, for causal_lm. Comes after order.py and read.py; stream.py makes them ahead of time.

The ledger's sums are taken from the filled array, so what they prove is what goes into forward."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.words import World
from orchestrator.data.feeding.batch import RankBatch, ReadFigures, cut_slots
from orchestrator.data.feeding.read import TokenReader
from orchestrator.data.ordering.ledger import TOKEN_BYTES, Sums, as_summed, digest_groups, join_checksums, sum_bytes
from orchestrator.data.ordering.order import SlotOrder, rank_slice
from orchestrator.data.ordering.skips import Skips
from orchestrator.data.ordering.unit import Ints, SpanTable

NO_DOCUMENT = -1


class PackedBatches:
    """`tokens` [n, L+1] and `weights` [n, L] of the targets. With `documents_apart` also, of the L inputs, `documents`
    (which of the row's documents a token is of, from 0; -1 is padding) and `positions` (from 0 in each)."""

    workers = 1

    def __init__(self, order: SlotOrder, reader: TokenReader, *, documents_apart: bool = False) -> None:
        self._order, self._reader, self._documents_apart = order, reader, documents_apart

    def make(self, step: int, world: World, skips: Skips) -> RankBatch:
        """Rank's slice of global batch `step`."""
        seq_len = self._seq_len(step)
        slots = self._order.slots(step)
        mine = rank_slice(slots.position.size, world.data_rank, world.data_size)
        positions = slots.position[mine.start : mine.stop]
        taken = np.flatnonzero(~skips.of(step, positions))
        fed = cut_slots(self._order, slots, taken + mine.start)
        fed = fed._replace(row=fed.row - mine.start)
        tokens = np.full((len(mine), seq_len + 1), self._reader.end_id, np.int64)
        read_bytes = self._reader.fill(tokens.reshape(-1), fed.row * (seq_len + 1) + fed.start, fed[2:])
        fields: dict[str, NDArray[Any]] = {"tokens": tokens, "weights": weigh_targets(fed, len(mine), seq_len)}
        if self._documents_apart:
            fields["documents"], fields["positions"] = number_documents(fed, len(mine), seq_len)
        return RankBatch(
            step=step,
            fields=fields,
            weight=float(fields["weights"].sum(dtype=np.float64)),
            slots=mine,
            fed=fed,
            sums=digest_rows(tokens, positions, fed),
            count=taken.size,
            figures=ReadFigures(read_bytes),
        )

    def size_bytes(self, step: int, world: World) -> int:
        rows = len(rank_slice(self._order.batch_size(step), world.data_rank, world.data_size))
        a_token = 8 + 4 + (2 * 4 if self._documents_apart else 0)
        return rows * self._seq_len(step) * a_token

    def close(self) -> None:
        """Nothing is open but maps."""

    def _seq_len(self, step: int) -> int:
        seq_len = self._order.seq_len(step)
        if seq_len is None:
            raise ValueError("packed batches need an order with a seq_len")
        return seq_len


def weigh_targets(fed: SpanTable, num_rows: int, seq_len: int) -> NDArray[np.float32]:
    """One for every token that is predicted, zero for padding. The first token of a row is input only."""
    filled = np.bincount(fed.row, fed.count, num_rows)  # tokens of each row; exact as floats
    return (np.arange(seq_len) < filled[:, None] - 1).astype(np.float32)


def number_documents(fed: SpanTable, num_rows: int, seq_len: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """For each input token of each row: which of the row's documents it is of, and how far into that stretch."""
    documents = np.full((num_rows, seq_len + 1), NO_DOCUMENT, np.int32)
    positions = np.zeros_like(documents)
    first_of_row = np.searchsorted(fed.row, fed.row)
    at = np.repeat(fed.row * (seq_len + 1) + fed.start, fed.count)
    within = np.arange(at.size) - np.repeat(np.cumsum(fed.count) - fed.count, fed.count)
    documents.reshape(-1)[at + within] = np.repeat(np.arange(fed.row.size) - first_of_row, fed.count)
    positions.reshape(-1)[at + within] = within
    return documents[:, :-1], positions[:, :-1]


def digest_rows(tokens: NDArray[np.int64], positions: Ints, fed: SpanTable) -> Sums:
    """The ledger's sums over rows as they are in the array."""
    if not fed.row.size:
        return Sums()
    begin = (fed.row * tokens.shape[1] + fed.start) * TOKEN_BYTES
    data = as_summed(tokens).view(np.uint8).reshape(-1).data
    ends = (begin + fed.count * TOKEN_BYTES).tolist()
    checksums = join_checksums([sum_bytes(data[a:b]) for a, b in zip(begin.tolist(), ends, strict=True)])
    groups = np.zeros(fed.row.size, np.int64)
    return Sums.from_limbs(digest_groups(groups, 1, [positions[fed.row], fed.start], fed[2:], checksums)[0].tolist())
