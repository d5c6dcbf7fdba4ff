"""A rank's batch cut into micro-batches: as many on every rank, whatever the number of samples.

Comes after data/feeding/batch.py, before the forward pass. A micro-batch that would be empty gets one sample of weight
zero, so that every rank takes part in every collective and the sums stay exact."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from orchestrator.data.feeding.batch import RankBatch
from orchestrator.data.ordering.order import rank_slice
from orchestrator.train.tasks.task import Fields


class MicroBatch(NamedTuple):
    """`slot` is the place in the global batch where it begins; it keys the random numbers of the forward pass.

    With data.mixup the fields have one row more: the sample after the last one."""

    slot: int
    fields: Fields


def cut_micro_batches(batch: RankBatch, number: int) -> Iterator[MicroBatch]:
    """`number` micro-batches in the order of the slots; their sizes differ by at most one."""
    for i in range(number):
        part = rank_slice(len(batch.slots), i, number)
        fields = cut_fields(batch, part) if len(part) else make_weightless(batch)
        yield MicroBatch(batch.slots.start + part.start, fields)


def cut_fields(batch: RankBatch, part: range) -> Fields:
    """Some rows; with data.mixup the one after them too, which the last rows take from beyond the batch."""
    if not batch.beyond or part.stop < len(batch.slots):
        stop = part.stop + bool(batch.beyond)
        return {name: array[part.start : stop] for name, array in batch.fields.items()}
    return {name: np.concatenate([array[part.start :], batch.beyond[name]]) for name, array in batch.fields.items()}


def make_weightless(batch: RankBatch) -> Fields:
    """A copy of the rank's first sample, or of zeros if it has none, with weight zero: it takes part in nothing.

    A real sample where there is one, since a made-up one might give a NaN, and zero times NaN is NaN."""
    rows = 2 if batch.beyond else 1
    fields = {name: array[:1].repeat(rows, axis=0) for name, array in batch.fields.items()}
    if not len(batch.slots):
        fields = {name: np.zeros((rows, *array.shape[1:]), array.dtype) for name, array in batch.fields.items()}
    fields["weights"][:] = 0
    return fields


def micro_batches_needed(global_batch: int, data_size: int, micro_batch: int) -> int:
    """How many a rank needs for the largest slice of a global batch."""
    largest_slice = -(-global_batch // data_size)
    return -(-largest_slice // micro_batch)
