"""One rank's part of one global batch, as arrays. Comes after order.py and read.py; stream.py makes them ahead of time.

The ledger's sums are taken from the filled array, so what they prove is what goes into forward."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.words import Span, World
from orchestrator.data.ledger import Sums, checksum, digest
from orchestrator.data.order import SlotOrder, rank_slice
from orchestrator.data.read import TokenReader
from orchestrator.data.skips import Skips
from orchestrator.data.unit import Ints


@dataclass(frozen=True, kw_only=True, slots=True)
class RankBatch:
    """What a rank feeds in one step. `fields` have one row for each of `slots`; skipped rows have weight zero."""

    step: int
    fields: dict[str, NDArray[Any]]
    weight: float  # sum of the weights: this rank's part of the loss's denominator
    slots: range  # places in the global batch
    spans: list[list[Span]]  # by row; empty for a skipped one
    sums: Sums
    count: int  # rows in the sums
    read_bytes: int


def fill_batch(order: SlotOrder, reader: TokenReader, step: int, world: World, skips: Skips) -> RankBatch:
    """Rank's slice of global batch `step` for causal_lm: `tokens` [n, L+1] and `weights` [n, L] of the targets."""
    seq_len = order.seq_len(step)
    if seq_len is None:
        raise ValueError("token batches need an order with a seq_len")
    slots = order.slots(step)
    mine = rank_slice(slots.position.size, world.data_rank, world.data_size)
    positions = slots.position[mine.start : mine.stop]
    skipped = skips.of(step, positions)
    spans = [[] if skip else order.spans(slots, i) for i, skip in zip(mine, skipped, strict=True)]
    tokens = np.full((len(mine), seq_len + 1), reader.end_id, np.int64)
    read_bytes = fill_rows(tokens, spans, reader)
    weights = weigh_targets(spans, seq_len)
    return RankBatch(
        step=step,
        fields={"tokens": tokens, "weights": weights},
        weight=float(weights.sum(dtype=np.float64)),
        slots=mine,
        spans=spans,
        sums=digest_rows(tokens, positions, spans),
        count=int((~skipped).sum()),
        read_bytes=read_bytes,
    )


def fill_rows(tokens: NDArray[np.int64], spans: list[list[Span]], reader: TokenReader) -> int:
    """Put each row's spans one after another; returns the bytes read. What they do not reach stays as it was."""
    read_bytes = 0
    for row, row_spans in zip(tokens, spans, strict=True):
        at = 0
        for span in row_spans:
            found = reader.read(span)
            row[at : at + span.count] = found
            at += span.count
            read_bytes += found.nbytes
    return read_bytes


def weigh_targets(spans: list[list[Span]], seq_len: int) -> NDArray[np.float32]:
    """One for every token that is predicted, zero for padding. The first token of a row is input only."""
    targets = np.array([sum(span.count for span in row) - 1 for row in spans], np.int64)
    return (np.arange(seq_len) < targets[:, None]).astype(np.float32)


def digest_rows(tokens: NDArray[np.int64], positions: Ints, spans: list[list[Span]]) -> Sums:
    """The ledger's sums over rows as they are in the array."""
    as_fed = tokens.astype("<u4")
    span_positions, starts, checksums = [], [], []
    for row, position, row_spans in zip(as_fed, positions.tolist(), spans, strict=True):
        at = 0
        for span in row_spans:
            span_positions.append(position)
            starts.append(at)
            checksums.append(checksum(row[at : at + span.count]))
            at += span.count
    return digest(span_positions, starts, [span for row_spans in spans for span in row_spans], checksums)
