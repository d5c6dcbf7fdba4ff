"""Nodes: who can be of the next world, in which order, who should come in and who should go. Pure.

policy.py asks it between worlds for the next one, and while one trains whether another would be better."""

from collections.abc import Sequence
from typing import NamedTuple

from orchestrator.control.blame import BadNode, is_bad
from orchestrator.control.jobs import RankReport
from orchestrator.control.seen import Limits, NodeSeen


class Leaving(NamedTuple):
    """Why a world is left at a step boundary, and the nodes that it is about."""

    reason: str
    hosts: tuple[str, ...]
    can_wait: bool = False  # a moment, for others that may come, too


def can_begin(node: NodeSeen, ranks: int) -> bool:
    """Its ranks are warm and free, and it keeps what a world needs."""
    report = node.report
    if node.lost or report is None or report.store is None or report.vault is None:
        return False
    return sum(rank.is_free for rank in report.ranks) >= ranks


def choose_seats(ranks: Sequence[RankReport], seats: int) -> list[RankReport]:
    """Who sits where on a node: survivors in their seats, others in the order of the report."""
    free = [rank for rank in ranks if rank.is_free]
    kept = {rank.local_rank: rank for rank in free if rank.local_rank is not None}
    others = iter([rank for rank in free if rank not in kept.values()])
    return [kept[seat] if seat in kept else next(others) for seat in range(seats)]


def count_wanted(step: int, limits: Limits) -> int:
    """Nodes of a world that begins at this step."""
    return limits.drill.nodes_at(step) or limits.max_nodes


def count_least(step: int, limits: Limits) -> int:
    """A drill's worlds are entered with exactly the nodes that it says."""
    return limits.drill.nodes_at(step) or limits.min_nodes


def find_members(nodes: Sequence[NodeSeen], bad: Sequence[BadNode], least: int) -> list[NodeSeen]:
    """Who may be of the next world: bad nodes only where it could not be without them, and those about to go only where
    it could not be even so."""
    living = [node for node in nodes if not node.lost]
    staying = [node for node in living if node.notice is None]
    good = [node for node in staying if not is_bad(node, bad)]
    return next((some for some in (good, staying) if len(some) >= least), living)


def choose_world(
    nodes: Sequence[NodeSeen],
    before: Sequence[str],
    bad: Sequence[BadNode],
    step: int,
    limits: Limits,
    *,
    patient: bool,
) -> tuple[str, ...] | None:
    """The next world's node actors by place. `before`: those of the last world, `step`: where the next one begins.

    None: not yet. While `patient`, it waits for the ranks of nodes that were there before, the first world for all."""
    wanted, least = count_wanted(step, limits), count_least(step, limits)
    members = find_members(nodes, bad, least)
    able = [node.name for node in members if can_begin(node, limits.ranks_per_node)]
    awaited = {node.name for node in members}.difference(able)
    if before:
        awaited &= set(before)
    if len(able) < least or (len(able) < wanted and awaited and patient):
        return None
    return place(able, before)[:wanted]


def place(able: Sequence[str], before: Sequence[str]) -> tuple[str, ...]:
    """Nodes keep their places, since the memory of each holds what its ranks need; others fill the gaps."""
    there = set(able)
    others = iter([name for name in able if name not in set(before)])
    seats = [name if name in there else next(others, None) for name in before]
    return (*(name for name in seats if name is not None), *others)


def find_leaving(
    nodes: Sequence[NodeSeen], world: Sequence[str], bad: Sequence[BadNode], limits: Limits
) -> Leaving | None:
    """Whether another world would be better than the one that trains."""
    inside = set(world)
    going = [node for node in nodes if node.name in inside and not _stays(node, bad)]
    idle = [
        node
        for node in nodes
        if node.name not in inside and _stays(node, bad) and can_begin(node, limits.ranks_per_node)
    ]
    kept = len(world) - len(going)
    if going and kept + len(idle) >= limits.min_nodes:
        return Leaving("; ".join(f"{node.host} {why_going(node)}" for node in going), _hosts(going))
    if not going and idle and kept < limits.max_nodes and not limits.drill.worlds:
        return Leaving(f"{kept} of {limits.max_nodes} nodes train, and more are there", _hosts(idle), can_wait=True)
    return None


def must_stop(nodes: Sequence[NodeSeen], world: Sequence[str], limits: Limits) -> bool:
    """Machines of the world are about to go, and too few would be left."""
    inside = set(world)
    staying = [node for node in nodes if node.notice is None and not node.lost]
    left = sum(node.name in inside or can_begin(node, limits.ranks_per_node) for node in staying)
    return left < limits.min_nodes and any(node.notice is not None for node in nodes if node.name in inside)


def find_shunned(nodes: Sequence[NodeSeen], bad: Sequence[BadNode], limits: Limits) -> set[str]:
    """Hosts on which no further node is asked for. A bad one is better than none."""
    good = sum(_stays(node, bad) for node in nodes)
    return {one.host for one in bad if good >= limits.min_nodes}


def _stays(node: NodeSeen, bad: Sequence[BadNode]) -> bool:
    return not node.lost and node.notice is None and not is_bad(node, bad)


def why_going(node: NodeSeen) -> str:
    return f"is about to go: {node.notice.reason}" if node.notice is not None else "has failed too often"


def find_released(nodes: Sequence[NodeSeen], world: Sequence[str], bad: Sequence[BadNode]) -> list[NodeSeen]:
    """Nodes that nobody needs: outside of the world, and not to be used again."""
    inside = set(world)
    return [node for node in nodes if node.name not in inside and not node.lost and not _stays(node, bad)]


def _hosts(nodes: Sequence[NodeSeen]) -> tuple[str, ...]:
    return tuple(node.host for node in nodes)
