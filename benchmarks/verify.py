"""The ledger made again by `longhaul verify`, without the model: positions (sequences, samples) per second on one core.

Documents lie in memory in 16-bit shards, as the token files of prepare do when they are in the page cache; of samples
that are fed as they are the checksums do, as prepare's tables do. A first part of the order is made again as verify
does it; then, where an epoch was taken whole, its set is proven.
Rates are by CPU time, so that a busy machine shows less; wall time stands beside them. Run:

    python benchmarks/verify.py
"""

import argparse
import resource
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from orchestrator.data.ordering.ledger import Sums
from orchestrator.data.ordering.order import Order
from orchestrator.data.ordering.row import Shuffling
from orchestrator.data.ordering.skips import Skips
from orchestrator.data.proof.audit import FedUnits, Prepared, prove_epochs, recompute

ASKED_PER_S = 1_000_000
GLOBAL_BATCH = 256
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Shape:
    """What the rate depends on: tokens to read and pieces to cut."""

    seq_len: int | None
    mean_document: int


SHAPES = [Shape(None, 20), Shape(128, 1000), Shape(256, 1000), Shape(512, 1000), Shape(1024, 1000), Shape(1024, 4000)]


class Tokenizer:
    end_id = 0


class MemoryCorpus:
    """What order and reader need of a manifest: shards of documents of random lengths, all kept."""

    tokenizer, source_names, segments_to_come = Tokenizer(), ["text"], 0

    def __init__(self, num_tokens: int, mean_document: int, num_shards: int) -> None:
        rng = np.random.default_rng(0)
        count = max(1, num_tokens // num_shards // mean_document)
        self._lengths = [rng.geometric(1 / mean_document, count) for _ in range(num_shards)]
        self._tokens = [rng.integers(0, 50_000, sizes.sum(), np.uint16) for sizes in self._lengths]
        self._checksums = rng.integers(0, 2**64, (num_shards, count, 2), np.uint64)

    def segments_of(self, source: int) -> list[Ints]:
        return [np.arange(len(self._tokens))]

    def totals(self, split: str) -> Ints:
        return np.array([tokens.size for tokens in self._tokens])

    def kept(self, split: str) -> Ints:
        return np.array([sizes.size for sizes in self._lengths])

    def lengths(self, ordinal: int, split: str) -> Ints:
        return self._lengths[ordinal]

    def places(self, ordinal: int, split: str) -> Ints:
        return np.arange(self._lengths[ordinal].size)

    def offsets(self, ordinal: int, split: str) -> Ints:
        return np.cumsum(self._lengths[ordinal]) - self._lengths[ordinal]

    def sizes(self, split: str) -> Ints:
        return self.totals(split)

    def checksums_at(self, ordinal: Ints, place: Ints, split: str) -> NDArray[np.uint64]:
        return self._checksums[ordinal, place]

    def tokens(self, ordinal: int) -> NDArray[np.uint16]:
        return self._tokens[ordinal]

    def shard_name(self, ordinal: int) -> str:
        return f"text/{ordinal:05d}.tar"


@dataclass(frozen=True)
class Taken:
    """One measurement."""

    positions: int
    cpu_s: float
    wall_s: float
    epoch_cpu_s: float
    epochs: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=200_000_000, help="size of the corpus")
    parser.add_argument("--positions", type=int, default=1_000_000, help="that many, or two epochs if that is less")
    parser.add_argument("--rounds", type=int, default=3, help="the median counts")
    options = parser.parse_args()
    results = {shape: measure(shape, options.tokens, options.positions, options.rounds) for shape in SHAPES}
    show(results)


def measure(shape: Shape, num_tokens: int, positions: int, rounds: int) -> Taken:
    corpus = MemoryCorpus(num_tokens, shape.mean_document, num_shards=16)
    taken = [recompute_once(corpus, shape.seq_len, positions) for _ in range(rounds)]
    return sorted(taken, key=lambda one: one.cpu_s)[rounds // 2]


def recompute_once(corpus: MemoryCorpus, seq_len: int | None, positions: int) -> Taken:
    """The way of launch/proof.py, on an order that is new each time."""
    order = Order(
        corpus,
        seed=1,
        weights=[1.0],
        global_batch=GLOBAL_BATCH,
        seq_len=seq_len,
        shuffling=Shuffling(window_samples=65_536, lanes=8),
    )
    prepared, fed = Prepared(corpus, "train", packed=seq_len is not None), FedUnits()
    num_steps = -(-min(positions, 2 * order.rows[0].epoch_count) // GLOBAL_BATCH)
    cpu, wall = time.process_time(), time.perf_counter()
    expected = recompute(order, prepared, Skips(), range(num_steps), fed)
    rows = (ledger_row(*one) for one in expected)
    if sum(row["count"] == GLOBAL_BATCH for row in rows) != num_steps:
        raise SystemExit("the recomputed ledger is not whole")
    cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - wall
    cpu = time.process_time()
    proofs = list(prove_epochs(order, prepared, fed))
    if not all(proof.holds for proof in proofs):
        raise SystemExit("an epoch's set does not hold")
    return Taken(num_steps * GLOBAL_BATCH, cpu_s, wall_s, time.process_time() - cpu, sum(one.rows for one in proofs))


def ledger_row(step: int, sums: Sums, count: int) -> dict[str, str | int]:
    return {"step": step, "order_digest": sums.order_hex, "set_digest": sums.set_hex, "count": count}


def show(results: dict[Shape, Taken]) -> None:
    table = Table(title=f"ledger made again, one core ({ASKED_PER_S:,} asked)", title_justify="left")
    for heading in ("seq_len", "tokens a document", "positions", "per CPU s", "per wall s", "epoch, per CPU s"):
        table.add_column(heading, justify="right")
    for shape, taken in results.items():
        epoch = f"{taken.epochs / taken.epoch_cpu_s:,.0f}" if taken.epochs else "none was whole"
        rates = (f"{taken.positions / seconds:,.0f}" for seconds in (taken.cpu_s, taken.wall_s))
        table.add_row(str(shape.seq_len or "samples"), str(shape.mean_document), f"{taken.positions:,}", *rates, epoch)
    Console().print(table)
    print(f"peak memory with the corpus: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")


if __name__ == "__main__":
    main()
