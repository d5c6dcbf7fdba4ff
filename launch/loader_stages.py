"""The stages of a rank's loader, done by hand one after another in one thread, each with the time it took.

For `longhaul bench-data`. The loader (packed.py and sampled.py in data/feeding/) does the same in its own way."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np

from orchestrator.config.run import RunConfig
from orchestrator.data.decoding.draws import sample_keys
from orchestrator.data.decoding.stack import stack_values
from orchestrator.data.feeding.batch import cut_slots
from orchestrator.data.feeding.feed import open_decoding
from orchestrator.data.feeding.packed import digest_rows, number_documents, weigh_targets
from orchestrator.data.feeding.read import TokenReader
from orchestrator.data.feeding.samples import SampleReader
from orchestrator.data.ordering.ledger import join_checksums, sum_bytes
from orchestrator.data.ordering.order import Order, rank_slice
from orchestrator.data.ordering.unit import Ints, SpanTable
from orchestrator.data.shards.manifest import Manifest
from orchestrator.storage.stores import StoreSettings, open_stores

ORDER, READING, CHECKSUMS, DECODING, TRANSFORMS, BATCHING = (
    "order", "reading", "checksums", "decoding", "transforms", "batching",
)  # fmt: skip
Fed = tuple[SpanTable, Ints, Ints]  # spans, and the position and epoch of each


class StageClock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - began

    def take_out(self, part: str, whole: str) -> None:
        """What was timed by itself, too, is not counted with the stage that it is a part of."""
        self.seconds[whole] = max(0.0, self.seconds[whole] - self.seconds[part])

    def shares(self) -> dict[str, float]:
        total = sum(self.seconds.values())
        return {name: seconds / total for name, seconds in self.seconds.items()}


def time_stages(
    config: RunConfig, manifest: Manifest, order: Order, ranks: int, seconds: float
) -> tuple[dict[str, float], int]:
    """Each stage's share of the time of the first of so many ranks, for steps from 0 on; and the step to go on with.

    The first step is not counted: it draws the order of many that follow, and opens shards."""
    clock = StageClock()
    take = (
        take_tokens(config, manifest, clock) if config.packed_len is not None else take_samples(config, manifest, clock)
    )
    step, began = 0, time.perf_counter()
    while step < 2 or time.perf_counter() - began < seconds:
        with clock.stage(ORDER):
            slots = order.slots(step)
            mine = rank_slice(slots.position.size, 0, ranks)
            fed = cut_slots(order, slots, np.arange(mine.start, mine.stop))
            epochs = order.epochs(slots)
        take(len(mine), (fed, slots.position[fed.row], epochs[fed.row]))
        step += 1
        if step == 1:
            clock.seconds.clear()
            began = time.perf_counter()
    if config.packed_len is None:  # where these were timed by themselves, too
        clock.take_out(CHECKSUMS, READING)
    if config.data.transforms:
        clock.take_out(DECODING, TRANSFORMS)
    return clock.shares(), step


Take = Callable[[int, Fed], None]


def take_samples(config: RunConfig, manifest: Manifest, clock: StageClock) -> Take:
    """data.fields: what reads, decodes and stacks."""
    fields = {name: field.members for name, field in config.data.read_fields.items()}
    reader = SampleReader(manifest, "train", fields, open_stores(StoreSettings.of(config.data)))
    whole = open_decoding(config, manifest)
    plain = replace(whole, transforms=[])

    def take(_rows: int, fed: Fed) -> None:
        spans, _, epochs = fed
        name = partial(_name_span, reader, spans)
        with clock.stage(READING):  # with checksums
            raw = reader.read(spans.ordinal, spans.place)
        with clock.stage(CHECKSUMS):
            for column in raw.views:
                join_checksums(list(map(sum_bytes, column)))
        keys = sample_keys(config.seed, epochs, spans.ordinal, spans.place)
        members = dict(zip(fields, zip(raw.suffixes, raw.views, strict=True), strict=True))
        with clock.stage(DECODING):
            columns, _ = plain.decode_columns(members, keys)
        if whole.transforms:
            with clock.stage(TRANSFORMS):  # with decoding
                columns, _ = whole.decode_columns(members, keys)
        with clock.stage(BATCHING):
            for field, column in columns.items():
                good = [value for value in column if value is not None]
                if good:
                    stack_values(field, good, name)

    return take


def take_tokens(config: RunConfig, manifest: Manifest, clock: StageClock) -> Take:
    """causal_lm: what reads and packs."""
    reader, seq_len = TokenReader(manifest, "train"), config.task.seq_len

    def take(rows: int, fed: Fed) -> None:
        spans, _, _ = fed
        spans = spans._replace(row=spans.row - spans.row.min())
        with clock.stage(BATCHING):
            tokens = np.full((rows, seq_len + 1), reader.end_id, np.int64)
        with clock.stage(READING):
            reader.fill(tokens.reshape(-1), spans.row * (seq_len + 1) + spans.start, spans[2:])
        with clock.stage(BATCHING):
            weigh_targets(spans, rows, seq_len)
            if config.task.documents_apart:
                number_documents(spans, rows, seq_len)
        with clock.stage(CHECKSUMS):
            digest_rows(tokens, np.arange(rows), spans)

    return take


def _name_span(reader: SampleReader, spans: SpanTable, row: int) -> str:
    return reader.name(int(spans.ordinal[row]), int(spans.place[row]))
