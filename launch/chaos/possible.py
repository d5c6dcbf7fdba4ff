"""Whether faults can be struck at this run, and how many hosts that takes: what cannot be is refused before anything
starts. After faults.py and draw.py, before the runs of chaos.py."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from launch.chaos.faults import OF_NODES, OF_RANKS, Fault, Kind
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import BadInput


@dataclass(frozen=True, kw_only=True, slots=True)
class Nodes:
    """`at_start` of `most` nodes are there when the broken run begins; the others come by `add node`."""

    least: int  # the run needs so many
    at_start: int
    most: int

    @classmethod
    def of(cls, config: RunConfig, faults: Sequence[Fault]) -> Self:
        """Those that come without one having gone before are kept back at the start."""
        cluster = config.cluster
        gone = kept_back = 0
        for fault in faults:
            if fault.kind is Kind.KILL_NODE:
                gone += 1
            elif fault.kind is Kind.ADD_NODE:
                gone, kept_back = (gone - 1, kept_back) if gone else (0, kept_back + 1)
        most = cluster.nodes.max + cluster.spare_nodes
        return cls(least=cluster.nodes.min, at_start=most - kept_back, most=most)


def check_possible(faults: Sequence[Fault], config: RunConfig) -> None:
    """BadInput with everything that cannot be."""
    problems = list(_problems(faults, config))
    if problems:
        raise BadInput("; ".join(problems), where="--faults")


def needs_hosts(config: RunConfig, faults: Sequence[Fault]) -> bool:
    """A local Ray is one node; more are made of this machine. A cluster that is there already has its own."""
    if not is_local(config):
        return False
    cluster = config.cluster
    return cluster.nodes.max + cluster.spare_nodes > 1 or any(fault.kind in OF_NODES for fault in faults)


def is_local(config: RunConfig) -> bool:
    return config.cluster.address == "local"


def _problems(faults: Sequence[Fault], config: RunConfig) -> Iterator[str]:
    for fault in faults:
        yield from _problems_of(fault, config)
    yield from _check_nodes(faults, Nodes.of(config, faults))


def _problems_of(fault: Fault, config: RunConfig) -> Iterator[str]:
    cluster, steps = config.cluster, config.train.steps
    if fault.step is not None and fault.step < 1:
        yield f"{fault}: a run can be broken once a step is done, from 1 on"
    if fault.step is not None and steps is not None and fault.step >= steps:
        yield f"{fault}: the run has {steps} steps"
    ranks = cluster.nodes.max * cluster.ranks_per_node
    if fault.kind in OF_RANKS and (fault.number or 0) >= ranks:
        yield f"{fault}: the run has ranks 0 to {ranks - 1}"
    nodes = cluster.nodes.max + cluster.spare_nodes
    if fault.kind in OF_NODES and not is_local(config):
        yield f"{fault}: nodes of {cluster.address} are left alone; with cluster.address=local chaos makes its own"
    elif fault.kind in OF_NODES and (fault.number or 0) >= nodes:
        yield f"{fault}: the run has nodes 0 to {nodes - 1}"
    if fault.kind is Kind.SPIKE:
        yield from _check_spike(fault, config)


def _check_spike(fault: Fault, config: RunConfig) -> Iterator[str]:
    spike = config.elastic.spike
    if spike is None or spike.action != "void":
        yield f"{fault}: nothing would be done about it, set elastic.spike.action=void"
    elif fault.step is not None and fault.step <= spike.steps:
        yield f"{fault}: a leap is seen after elastic.spike.steps={spike.steps} steps"


def _check_nodes(faults: Sequence[Fault], nodes: Nodes) -> Iterator[str]:
    """Whether enough are left at any time, and none is broken that is gone."""
    if nodes.at_start < nodes.least:
        added = nodes.most - nodes.at_start
        yield f"{added} added of {nodes.most} nodes leave fewer than cluster.nodes.min={nodes.least} to begin with"
    there, gone = nodes.at_start, list[int]()
    for fault in faults:
        if fault.number in gone and fault.kind in (Kind.KILL_NODE, Kind.CUT_NODE):
            yield f"{fault}: that node is gone by then"
        elif fault.kind is Kind.KILL_NODE:
            gone.append(fault.number or 0)
            there -= 1
            if there < nodes.least:
                yield f"{fault}: leaves {there} of cluster.nodes.min={nodes.least} nodes, and the run would wait"
        elif fault.kind is Kind.ADD_NODE:
            there += 1
            if gone:
                gone.pop(0)
