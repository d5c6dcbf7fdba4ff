"""How often each shard is downloaded when every node keeps what it has read, with lanes and without.

Which shards a node touches within one unit comes from the real order: ranks take contiguous slices of each batch, and
batches are sorted by lane. A shard is counted once for each node that reads anything of it. What is really fetched are
blocks of 2 MiB; they are counted in the same way, on a part of the shards. Run:

    python benchmarks/lanes.py
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from orchestrator.data.ordering.order import Order, rank_slice
from orchestrator.data.ordering.row import Shuffling

ASKED = 1.1
NODES, RANKS = (8, 32, 128), 8
LEAST, MOST, SAMPLE_BYTES = 1536, 2560, 2**17  # samples in a shard, of about 256 MiB: some eight make a window
RUN = 2**21 // SAMPLE_BYTES  # in a block, and what data.run_samples=auto makes of it
BLOCKS = MOST // RUN  # in a shard
BLOCKS_COUNTED_IN = 16  # the blocks of one shard in so many
POSITIONS_AT_ONCE = 2**19
Ints = NDArray[np.int64]


class Corpus:
    """Shards in one segment, `num_shards` of each source: what the order must know of them."""

    def __init__(self, num_shards: int, num_sources: int) -> None:
        self.source_names, self.segments_to_come = [f"source{n}" for n in range(num_sources)], 0
        self._num_shards = num_shards
        self._kept = np.random.default_rng(0).integers(LEAST, MOST + 1, num_shards * num_sources)

    def segments_of(self, source: int) -> list[Ints]:
        return [np.arange(source * self._num_shards, (source + 1) * self._num_shards)]

    def kept(self, split: str) -> Ints:
        return self._kept

    def sizes(self, split: str) -> Ints:
        return self._kept * SAMPLE_BYTES

    def totals(self, split: str) -> Ints:
        raise NotImplementedError("samples are fed as they are")

    lengths = places = shard_name = totals


@dataclass(frozen=True)
class Case:
    """A unit and how it is walked; counted is the first source."""

    num_shards: int
    global_batch: int
    lanes: int | Literal["auto"] = "auto"
    weights: tuple[float, ...] = (1.0,)


CASES = (
    Case(16_384, 4096),
    Case(16_384, 4096, lanes=1),
    Case(16_384, 4000),  # no multiple of the lanes: slices move against them
    Case(16_384, 4096, weights=(0.7, 0.3)),  # as do the shares of two sources in a lane
    Case(1024, 4096),  # eight shards a lane, no more than a window has
    Case(1024, 4096, lanes=1),
)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    title = f"downloads of each shard, and of each block, in one unit; asked: {ASKED} at most"
    table = Table(title=title, title_justify="left")
    for heading in ("shards", "batch", "sources", "lanes", *(f"{nodes} nodes" for nodes in NODES)):
        table.add_column(heading, justify="right")
    for case in CASES:
        shards, blocks, lanes = count_downloads(case)
        found = [f"{of_shards:.2f}, {of_blocks:.2f}" for of_shards, of_blocks in zip(shards, blocks, strict=True)]
        table.add_row(f"{case.num_shards:,}", str(case.global_batch), str(len(case.weights)), str(lanes), *found)
    Console().print(table)


def count_downloads(case: Case) -> tuple[list[float], list[float], int]:
    """By number of nodes: (node, shard) pairs that meet within the unit, by shard; the same of blocks; the lanes."""
    order = Order(
        Corpus(case.num_shards, len(case.weights)),
        seed=1,
        weights=list(case.weights),
        global_batch=case.global_batch,
        seq_len=None,
        shuffling=Shuffling(window_samples=262_144, run_samples=RUN, lanes=case.lanes),
    )
    unit = order.unit(0, 0)
    nodes_of = {nodes: node_of_slots(case.global_batch, nodes) for nodes in NODES}
    shards = {nodes: np.zeros((nodes, case.num_shards), bool) for nodes in NODES}
    blocks = {nodes: np.zeros((nodes, case.num_shards // BLOCKS_COUNTED_IN * BLOCKS), bool) for nodes in NODES}
    for steps in cut_steps(order):
        slots = order.slots_of(steps)
        step = np.repeat(np.arange(len(steps)), case.global_batch)
        slots = slots.take(np.lexsort((slots.index, slots.unit, slots.source, slots.lane, step)))
        own = np.flatnonzero((slots.source == 0) & (slots.unit == 0))
        ordinal, sample = unit.locate(slots.index[own])
        counted = ordinal < case.num_shards // BLOCKS_COUNTED_IN  # their numbers say nothing of the order
        block = (ordinal * BLOCKS + sample // RUN)[counted]
        for nodes, of_batch in nodes_of.items():
            node = np.tile(of_batch, len(steps))[own]
            shards[nodes][node, ordinal] = True
            blocks[nodes][node[counted], block] = True
    of_shards, of_blocks = (
        [float(one.sum() / one.any(axis=0).sum()) for one in found.values()] for found in (shards, blocks)
    )
    return of_shards, of_blocks, unit.lanes


def cut_steps(order: Order) -> Iterator[range]:
    """The steps in which the first unit of the first source is taken, some at a time."""
    batch, at_once = order.batch_size(0), POSITIONS_AT_ONCE // order.batch_size(0)
    last = order.position_of(0, order.unit(0, 0).count - 1)
    assert last is not None
    num_steps = last // batch + 1
    for first in range(0, num_steps, at_once):
        yield range(first, min(num_steps, first + at_once))


def node_of_slots(batch: int, nodes: int) -> Ints:
    """The node that feeds each slot of a batch."""
    node = np.empty(batch, np.int64)
    for rank in range(nodes * RANKS):
        part = rank_slice(batch, rank, nodes * RANKS)
        node[part.start : part.stop] = rank // RANKS
    return node


if __name__ == "__main__":
    main()
