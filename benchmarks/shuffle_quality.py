"""How well the order shuffles, against an ideal permutation, reading in sequence, and webdataset's shuffle buffer.

Two questions about one pass over a source. How many steps apart are samples that are neighbours in storage? And what
share of the pairs in a batch come from the same shard? webdataset is simulated by its algorithm: each rank shuffles its
own shards and sends them through a buffer. Needs the bench extra. Run:

    python benchmarks/shuffle_quality.py [--picture docs/shuffle.png]
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from orchestrator.data.ordering.order import Order
from orchestrator.data.ordering.row import Shuffling

SHARDS, SAMPLES, SAMPLE_BYTES = 4096, 1024, 2**18  # shards of 256 MiB: eight of them make a window
RUN = 2**21 // SAMPLE_BYTES  # data.run_samples=auto in a store
BATCH, RANKS = 1024, 8
BUFFER, INITIAL = 1000, 100  # webdataset: shuffle(1000)
Ints = NDArray[np.int64]


class EvenCorpus:
    """Equal shards of one source in one segment: what the order must know of them."""

    source_names, segments_to_come = ("images",), 0

    def segments_of(self, source: int) -> list[Ints]:
        return [np.arange(SHARDS)]

    def kept(self, split: str) -> Ints:
        return np.full(SHARDS, SAMPLES)

    def sizes(self, split: str) -> Ints:
        return np.full(SHARDS, SAMPLES * SAMPLE_BYTES)

    def totals(self, split: str) -> Ints:
        raise NotImplementedError("samples are fed as they are")

    lengths = places = shard_name = totals


@dataclass(frozen=True)
class Quality:
    """`apart`: steps between neighbours of a shard, sorted; `same_shard`: share of the pairs of a batch."""

    apart: Ints
    same_shard: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, help="where to draw it")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    orders = {
        "ideal permutation": rng.permutation(SHARDS * SAMPLES),
        "longhaul": own_order(run_samples=1),
        f"longhaul, runs of {RUN}": own_order(run_samples=RUN),
        "webdataset, shuffle(1000)": buffered_order(rng),
        "in sequence": np.arange(SHARDS * SAMPLES),
    }
    qualities = {name: judge(order) for name, order in orders.items()}
    show(qualities)
    if options.picture is not None:
        draw(qualities, options.picture)


def own_order(run_samples: int) -> Ints:
    """Samples (numbered as they lie in storage) by position, for one pass."""
    order = Order(
        EvenCorpus(),
        seed=1,
        weights=[1.0],
        global_batch=BATCH,
        seq_len=None,
        shuffling=Shuffling(window_samples=262_144, run_samples=run_samples),
    )
    slots = order.slots_of(range(SHARDS * SAMPLES // BATCH))
    ordinal, sample = order.unit(0, 0).locate(slots.index)
    return ordinal * SAMPLES + sample


def buffered_order(rng: np.random.Generator) -> Ints:
    """Every rank's stream, cut into batches."""
    shards = rng.permutation(SHARDS)
    streams = [np.fromiter(pass_buffer(shards[rank::RANKS], rng), np.int64) for rank in range(RANKS)]
    return np.stack([stream.reshape(-1, BATCH // RANKS) for stream in streams], axis=1).ravel()


def pass_buffer(shards: Ints, rng: np.random.Generator) -> Iterator[int]:
    """webdataset's shuffle: two in and one out until the buffer is full, then one of it, drawn at random, for each."""
    stream = iter((shards[:, None] * SAMPLES + np.arange(SAMPLES)).ravel().tolist())
    draws = iter(rng.random(shards.size * SAMPLES).tolist())
    buffer: list[int] = []

    def pick() -> int:
        n = int(next(draws) * len(buffer))
        buffer[n], buffer[-1] = buffer[-1], buffer[n]
        return buffer.pop()

    for sample in stream:
        buffer.append(sample)
        if len(buffer) < BUFFER and (another := next(stream, None)) is not None:
            buffer.append(another)
        if len(buffer) >= INITIAL:
            yield pick()
    while buffer:
        yield pick()


def judge(order: Ints) -> Quality:
    step = np.empty(order.size, np.int64)
    step[order] = np.arange(order.size) // BATCH
    apart = np.abs(np.diff(step.reshape(SHARDS, SAMPLES), axis=1)).ravel()
    batches = np.sort(order.reshape(-1, BATCH) // SAMPLES, axis=1)
    first = np.arange(len(batches))[:, None] * SHARDS + batches
    counts = np.bincount(first.ravel(), minlength=len(batches) * SHARDS).astype(float)
    pairs = float((counts * (counts - 1)).sum()) / (len(batches) * BATCH * (BATCH - 1))
    return Quality(np.sort(apart), pairs)


def show(qualities: dict[str, Quality]) -> None:
    table = Table(title=f"{SHARDS} shards of {SAMPLES} samples, batches of {BATCH}", title_justify="left")
    for heading in ("", "neighbours in storage: steps apart, median", "in the same step, %", "pairs of one shard, %"):
        table.add_column(heading, justify="right")
    for name, found in qualities.items():
        together = 100 * np.searchsorted(found.apart, 1) / found.apart.size
        median = found.apart[found.apart.size // 2]
        table.add_row(name, str(median), f"{together:.2f}", f"{100 * found.same_shard:.2f}")
    Console().print(table)


def draw(qualities: dict[str, Quality], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.2, 1])
    for n, found in enumerate(qualities.values()):
        some = found.apart[:: found.apart.size // 2000]
        left.plot(some + 1, np.linspace(0, 100, some.size), color=f"C{n}", linestyle="-" if n else "--", zorder=-n)
        right.barh(n, 100 * found.same_shard, color=f"C{n}")
        right.text(110 * found.same_shard, n, f"{100 * found.same_shard:.2f} %", va="center")
    left.set(xscale="log", xlabel="steps between neighbours in storage, plus one", ylabel="% of neighbours, at most")
    right.set(xscale="log", xlim=(0.01, 3000), xlabel="pairs in a batch from one shard, %")
    right.set_yticks(range(len(qualities)), list(qualities))
    right.invert_yaxis()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
