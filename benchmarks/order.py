"""An order of 10^10 samples in 10^6 shards: how long a batch's look-ups take, and how much memory the order needs.

A look-up turns a position into its source, shard, place among the shard's kept samples (or packed sequence) and lane.
The numbers of the shards are arrays made here, as a manifest's columns are. Each part runs in a process of its own, so
that the growth of its memory is its own. Run:

    python benchmarks/order.py
"""

import argparse
import gc
import multiprocessing
import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import psutil
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from orchestrator.data.ordering.order import Order, Slots
from orchestrator.data.ordering.row import Shuffling

ASKED_MS, ASKED_MB = 5.0, 200.0
SAMPLES, SHARDS, SEQ_LEN = 10**10, 10**6, 1024
SEGMENT_SHARDS, DOUBLINGS = 64, 4  # as data/shards/source.py cuts them
FAR_STEP = 10**6
Ints = NDArray[np.int64]


class WideCorpus:
    """What the order must know of 10^6 shards of about 10^4 samples each, all kept."""

    source_names, segments_to_come = ("images",), 0

    def __init__(self, num_shards: int, num_samples: int, sample_size: int) -> None:
        mean = num_samples // num_shards
        self._kept = np.random.default_rng(0).integers(mean // 2, mean * 3 // 2, num_shards)
        self._sizes = self._kept * sample_size

    def segments_of(self, source: int) -> list[Ints]:
        ends, number = [0], 0
        while ends[-1] < self._kept.size:
            ends.append(min(self._kept.size, ends[-1] + SEGMENT_SHARDS * 2 ** min(number, DOUBLINGS)))
            number += 1
        return [np.arange(begin, end) for begin, end in pairwise(ends)]

    def kept(self, split: str) -> Ints:
        return self._kept

    def sizes(self, split: str) -> Ints:
        return self._sizes

    def totals(self, split: str) -> Ints:
        return self._sizes

    def places(self, ordinal: int, split: str) -> Ints:
        return np.arange(self._kept[ordinal])

    def lengths(self, ordinal: int, split: str) -> Ints:
        raise NotImplementedError("look-ups lay out no documents")

    def shard_name(self, ordinal: int) -> str:
        return f"images/{ordinal:07d}.tar"


@dataclass(frozen=True)
class Feeding:
    """What the positions of the order are."""

    name: str
    seq_len: int | None
    sample_size: int  # bytes, or tokens when packing
    run_samples: int = 1


FEEDINGS = (
    Feeding("samples", None, 100_000),
    Feeding("samples in runs", None, 100_000, run_samples=20),
    Feeding("packed sequences", SEQ_LEN, SEQ_LEN),
)


@dataclass(frozen=True)
class Measured:
    """Times of single look-ups of a whole batch, in ms; memory in MB."""

    made_ms: float
    first_ms: float  # with what is laid out on first use
    near_ms: float
    far_first_ms: float
    far_ms: float
    epoch_first_ms: float  # with a unit of all shards
    epoch_ms: float
    places_ms: float | None  # from kept samples to places in the shards
    corpus_mb: float
    order_mb: float
    peak_mb: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--shards", type=int, default=SHARDS)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=101, help="the median counts")
    options = parser.parse_args()
    fresh = multiprocessing.get_context("spawn")
    measured = []
    for feeding in FEEDINGS:
        with fresh.Pool(1) as process:
            arguments = (feeding, options.samples, options.shards, options.batch, options.rounds)
            measured.append(process.apply(measure, arguments))
    show(measured, options.batch)


def measure(feeding: Feeding, num_samples: int, num_shards: int, batch: int, rounds: int) -> Measured:
    before = resident_mb()
    corpus = WideCorpus(num_shards, num_samples, feeding.sample_size)
    with_corpus = resident_mb()
    began = time.perf_counter()
    order = Order(
        corpus,
        seed=1,
        weights=[1.0],
        global_batch=batch,
        seq_len=feeding.seq_len,
        shuffling=Shuffling(window_samples=262_144, run_samples=feeding.run_samples),
    )
    made_ms = 1000 * (time.perf_counter() - began)
    first_ms, near_ms = look_up_often(order, range(rounds))
    far_first_ms, far_ms = look_up_often(order, range(FAR_STEP, FAR_STEP + rounds))
    second_epoch = order.rows[0].epoch_count // batch + 1  # one unit over all shards
    epoch_first_ms, epoch_ms = look_up_often(order, range(second_epoch, second_epoch + rounds))
    after = resident_mb()
    places_ms = None
    if feeding.seq_len is None:
        places_ms = statistics.median(
            time_ms(find_places, order, order.slots(step)) for step in range(second_epoch, second_epoch + rounds // 10)
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    memory = (with_corpus - before, after - with_corpus, peak - with_corpus)
    times = (made_ms, first_ms, near_ms, far_first_ms, far_ms, epoch_first_ms, epoch_ms, places_ms)
    return Measured(*times, *memory)


def look_up_often(order: Order, steps: Sequence[int]) -> tuple[float, float]:
    """Milliseconds of the first look-up, and the median of the others."""
    first, *others = (time_ms(look_up, order, step) for step in steps)
    return first, statistics.median(others)


def look_up(order: Order, step: int) -> None:
    slots = order.slots(step)
    if order.seq_len(step) is None:
        for number in np.unique(slots.unit):
            order.unit(0, int(number)).locate(slots.index[slots.unit == number])


def find_places(order: Order, slots: Slots) -> None:
    for number in np.unique(slots.unit):
        order.unit(0, int(number)).cut(slots.index[slots.unit == number])


def time_ms(work, *arguments) -> float:  # type: ignore[no-untyped-def]
    began = time.perf_counter()
    work(*arguments)
    return 1000 * (time.perf_counter() - began)


def resident_mb() -> float:
    gc.collect()
    return psutil.Process().memory_info().rss / 1e6


def show(measured: list[Measured], batch: int) -> None:
    table = Table(title=f"{batch:,} look-ups; asked: {ASKED_MS:g} ms at most, {ASKED_MB:g} MB", title_justify="left")
    table.add_column("")
    for feeding in FEEDINGS:
        table.add_column(feeding.name, justify="right")
    rows = {
        "the order is made, ms": "made_ms",
        "step 0, first batch": "first_ms",
        "later batches, median": "near_ms",
        f"step {FAR_STEP:,}, first batch": "far_first_ms",
        "later batches, median ": "far_ms",
        "second epoch, first batch": "epoch_first_ms",
        "later batches, median  ": "epoch_ms",
        "places in shards, added to it": "places_ms",
        "numbers of the shards, MB": "corpus_mb",
        "order": "order_mb",
        "most at any time": "peak_mb",
    }
    for label, name in rows.items():
        values = [getattr(one, name) for one in measured]
        table.add_row(label, *("-" if value is None else f"{value:.1f}" for value in values))
    Console().print(table)


if __name__ == "__main__":
    main()
