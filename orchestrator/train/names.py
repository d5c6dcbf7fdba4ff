"""Samples as people know them, shard/key, for messages and news of loop.py."""

from collections.abc import Iterable

import numpy as np

from orchestrator.core.news import LeftOut
from orchestrator.data.feeding.batch import Hole, RankBatch
from orchestrator.data.shards.manifest import Manifest


def name_samples(manifest: Manifest, batch: RankBatch, most: int = 8) -> str:
    """What a batch is made of."""
    ids = sorted({(span.ordinal, span.place) for spans in batch.spans for span in spans})
    names = [name_sample(manifest, ordinal, place) for ordinal, place in ids[:most]]
    return ", ".join(names) + (f" and {len(ids) - most} more" if len(ids) > most else "")


def name_holes(manifest: Manifest, holes: Iterable[Hole]) -> tuple[LeftOut, ...]:
    return tuple(LeftOut(hole.position, name_sample(manifest, hole.ordinal, hole.place), hole.reason) for hole in holes)


def name_sample(manifest: Manifest, ordinal: int, place: int) -> str:
    return f"{manifest.shard_name(ordinal)}/{manifest.keys(ordinal, np.array([place]))[0]}"
