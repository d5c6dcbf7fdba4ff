"""Samples as people know them, shard/key, for messages and news of loop.py."""

from collections.abc import Iterable

import numpy as np

from orchestrator.core.news import FedBy, LeftOut
from orchestrator.data.feeding.batch import Hole, RankBatch
from orchestrator.data.shards.manifest import Manifest

MOST_NAMED = 8  # of one rank


def name_fed(manifest: Manifest, batch: RankBatch, rank: int, rows: Iterable[int]) -> FedBy:
    """What some rows of a rank's batch are made of."""
    ids = sorted({(span.ordinal, span.place) for row in rows for span in batch.spans[row]})
    names = tuple(name_sample(manifest, ordinal, place) for ordinal, place in ids[:MOST_NAMED])
    return FedBy(rank, names, len(ids) - len(names))


def name_holes(manifest: Manifest, holes: Iterable[Hole]) -> tuple[LeftOut, ...]:
    return tuple(LeftOut(hole.position, name_sample(manifest, hole.ordinal, hole.place), hole.reason) for hole in holes)


def name_sample(manifest: Manifest, ordinal: int, place: int) -> str:
    return f"{manifest.shard_name(ordinal)}/{manifest.keys(ordinal, np.array([place]))[0]}"
