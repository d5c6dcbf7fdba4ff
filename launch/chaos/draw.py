"""Faults drawn at random: the same ones for the same seed, at times that are known only once the run lives.

In place of faults.py's parser; `nan` and `spike` are left out, since they belong to a step."""

import random
from collections.abc import Iterator
from itertools import count as endless

from launch.chaos.faults import NUMBERED, OF_NODES, OF_RANKS, Fault, Kind
from launch.chaos.possible import Nodes, is_local
from orchestrator.config.run import RunConfig

CUT_S = (1.0, 4.0)  # how long a node is cut off: some heal before they are missed, some do not
_ANYWHERE = (Kind.KILL_RANK, Kind.STOP_RANK, Kind.KILL_CONTROLLER, Kind.KILL_SCRIBE)
_OFTEN = {Kind.KILL_RANK: 4, Kind.STOP_RANK: 2}  # the others once


def draw_faults(config: RunConfig, seed: int, mtbf_s: float, count: int | None) -> Iterator[Fault]:
    """Endless without `count`. Gaps between them are those of failures that know nothing of each other."""
    draws, nodes = random.Random(seed), Nodes.of(config, [])
    gone: list[int] = []
    for _ in range(count) if count is not None else endless():
        kinds = _possible(nodes, len(gone)) if is_local(config) else list(_ANYWHERE)
        [kind] = draws.choices(kinds, [_OFTEN.get(kind, 1) for kind in kinds])
        number = _draw_number(kind, config, nodes, gone, draws) if kind in NUMBERED else None
        if kind is Kind.KILL_NODE and number is not None:
            gone.append(number)
        if kind is Kind.ADD_NODE:
            gone.pop(0)
        lasts_s = round(draws.uniform(*CUT_S), 1) if kind is Kind.CUT_NODE else None
        yield Fault(kind=kind, number=number, gap_s=draws.expovariate(1 / mtbf_s), lasts_s=lasts_s)


def _possible(nodes: Nodes, gone: int) -> list[Kind]:
    """Never below the nodes that the run needs."""
    kinds = list(_ANYWHERE)
    if nodes.most - gone > nodes.least:
        kinds += [Kind.KILL_NODE, Kind.CUT_NODE]
    return [*kinds, Kind.ADD_NODE] if gone else kinds


def _draw_number(kind: Kind, config: RunConfig, nodes: Nodes, gone: list[int], draws: random.Random) -> int:
    """Ranks of the smallest world that may be there; nodes that are."""
    if kind in OF_RANKS:
        return draws.randrange(nodes.least * config.cluster.ranks_per_node)
    assert kind in OF_NODES
    return draws.choice([node for node in range(nodes.most) if node not in gone])
