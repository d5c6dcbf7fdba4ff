"""Node actors as a controller may see them, with ranks in any state, for tests of what it decides."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from orchestrator.control.jobs import NodeReport, Notice, Problem, RankEnd, RankReport, RankState, VaultAddress
from orchestrator.control.seen import NodeSeen, OfferedNode, Seen

PER_NODE = 2
READY = RankReport(rank=None, local_rank=None, pid=0, state=RankState.READY, is_free=True)


def training(rank: int, generation: int = 1, **fields: Any) -> RankReport:
    state = fields.pop("state", RankState.TRAINING)
    told = {"trained": True, "step": 7, **fields}
    return RankReport(rank=rank, local_rank=rank % PER_NODE, pid=100 + rank, state=state, generation=generation, **told)


def died(rank: int, **fields: Any) -> RankReport:
    return training(rank, state=RankState.DIED, **fields)


def raised(rank: int, problem: Problem, **fields: Any) -> RankReport:
    return training(rank, state=RankState.RAISED, problem=replace(problem, rank=rank), **fields)


def ended(rank: int, end: RankEnd, **fields: Any) -> RankReport:
    return training(rank, state=RankState.ENDED, end=end, **fields)


def freed(rank: int, **fields: Any) -> RankReport:
    """It has left a world and can take another job."""
    return training(rank, state=RankState.RAISED, is_free=True, **fields)


def node(name: str, *ranks: RankReport, notice: Notice | None = None, lost: str = "", deaf: bool = False) -> NodeSeen:
    """`deaf`: its vault does not listen yet. Without `ranks` it stands by, warm."""
    host = f"host-{name}"
    told = ranks or tuple(replace(READY, pid=pid) for pid in (1, 2))
    vault = None if deaf else VaultAddress(host, 2, "t")
    report = NodeReport(
        node_id=f"id-{name}", host=host, identity=host, pid=1, ranks=told, store=(host, 1), vault=vault,
        generation=max(rank.generation for rank in told),
    )  # fmt: skip
    return NodeSeen(name=name, host=host, report=report, lost=lost, notice=notice)


def world(*names: str, generation: int = 1, **of_rank: RankReport) -> list[NodeSeen]:
    """Nodes whose ranks all train, but for those given as r0=..., r1=..."""
    nodes = []
    for number, name in enumerate(names):
        ranks = range(number * PER_NODE, (number + 1) * PER_NODE)
        nodes.append(node(name, *(of_rank.get(f"r{rank}", training(rank, generation)) for rank in ranks)))
    return nodes


def seen(nodes: Sequence[NodeSeen], **fields: Any) -> Seen:
    return Seen(nodes=nodes, **{"generation": 1, **fields})


def offered(*names: str) -> list[OfferedNode]:
    return [OfferedNode(f"id-{name}", f"host-{name}") for name in names]
