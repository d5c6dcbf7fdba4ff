"""A cluster on paper: nodes that break, are repaired and come back, on a clock that jumps.

Comes before simulation.py, which has the real policy look at it; what that decides is done here after the times that
real things take (Times). No Ray, no files, no sleeping."""

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from orchestrator.control.decisions import Begin, Break, Decision, Drop, Finish, Leave, Release, Seek, StartNodes
from orchestrator.control.jobs import NodeReport, Notice, RankEnd, RankReport, RankState, VaultAddress
from orchestrator.control.seen import Limits, NodeSeen, OfferedNode, Seen
from orchestrator.core.words import RunState

FaultKind = Literal["rank", "node", "notice"]


class FaultToCome(NamedTuple):
    """`notice`: the machine is about to go, and says so."""

    t: float
    kind: FaultKind
    chance: float  # of 1: which of the nodes that are there, and which of its ranks


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """What things take, in seconds."""

    step_s: float = 6.0  # on all nodes; on fewer, the same batch takes longer
    notice_rank_s: float = 0.05
    notice_node_s: float = 5.0  # elastic.heartbeat_timeout_s
    free_s: float = 1.0  # until all ranks are out of a broken world
    seek_s: float = 1.0
    start_s: float = 30.0  # join, build and restore from memory, read the first batch
    warm_s: float = 30.0  # a new node's ranks
    repair_s: float = 12 * 3600.0  # a node that broke or was taken away is back


class SimulatedCluster:
    """`nodes`: of the machines that there are, the spare ones included."""

    def __init__(self, nodes: int, limits: Limits, times: Times) -> None:
        self._limits, self._times = limits, times
        self._nodes: dict[str, NodeSeen] = {}
        self._offered = {f"id-{number}": OfferedNode(f"id-{number}", f"host-{number}") for number in range(nodes)}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._generation, self._world, self._found, self._born = 0, tuple[str, ...](), False, 0
        self._alive = False  # whether the world that was begun last is whole
        self._broken = set[str]()  # nodes that are gone, whether or not anybody has noticed
        self.now = 0.0

    # what the policy sees, and when that changes

    def look(self) -> Seen:
        return Seen(
            generation=self._generation,
            nodes=list(self._nodes.values()),
            offered=list(self._offered.values()),
            start_step=0 if self._found else None,
        )

    @property
    def next_change(self) -> float:
        return self._events[0][0] if self._events else math.inf

    def advance(self, until: float) -> None:
        """Everything that happens by itself until then."""
        while self._events and self._events[0][0] <= until:
            self.now, _, happen = heapq.heappop(self._events)
            happen()
        self.now = until

    @property
    def training(self) -> int:
        """Nodes on which a world trains now."""
        ranks = [node.ranks for name in self._world if (node := self._nodes.get(name)) is not None and not node.lost]
        trains = self._alive and len(ranks) == len(self._world) and all(one.trained for one in ranks[0])
        return len(ranks) if trains else 0

    # what happens to it

    def strike(self, fault: FaultToCome) -> None:
        """Whether or not a world trains: machines do not ask."""
        names = [name for name, node in self._nodes.items() if not node.lost and node.notice is None]
        if not names:
            return
        name = names[int(fault.chance * len(names))]
        if fault.kind == "notice":
            notice = Notice(reason="maintenance", until=self.now + 600.0)
            self._nodes[name] = replace(self._nodes[name], notice=notice)
            return
        if name in self._world:
            self._alive = False
        if fault.kind == "node":
            self._broken.add(name)
            self._later(self._times.notice_node_s, lambda: self._lose(name))
        else:
            self._later(self._times.notice_rank_s, lambda: self._kill_rank(name, fault.chance))

    def _lose(self, name: str) -> None:
        if name in self._nodes:
            self._nodes[name] = replace(self._nodes[name], lost="it is silent")

    def _kill_rank(self, name: str, chance: float) -> None:
        if name in self._world and name in self._nodes and self._nodes[name].ranks[0].state is RankState.TRAINING:
            ranks = list(self._nodes[name].ranks)
            number = int(chance * 1e6) % len(ranks)
            ranks[number] = replace(ranks[number], state=RankState.DIED)
            self._show(name, ranks)

    # what the policy has done to it

    def act(self, decision: Decision) -> None:
        match decision:
            case StartNodes(node_ids):
                for node_id in node_ids:
                    self._start_node(node_id)
            case Seek():
                self._found = False
                self._later(self._times.seek_s, self._find)
            case Begin(world):
                self._begin(world)
            case Break():
                self._alive = False
                generation = self._generation
                self._later(self._times.free_s, lambda: self._set_free(generation))
            case Leave():
                generation = self._generation
                self._later(self._times.step_s, lambda: self._leave(generation))
            case Drop(name) | Release(name):
                self._remove(name)
            case Finish():
                raise AssertionError(f"nothing here ends a run: {decision.reason}")

    def _start_node(self, node_id: str) -> None:
        self._born += 1
        name, host = f"node-{self._born}", self._offered.pop(node_id).host
        report = NodeReport(
            node_id=node_id, host=host, identity=host, pid=1, ranks=(), store=(host, 1), vault=VaultAddress(host, 2, "")
        )  # fmt: skip
        self._nodes[name] = NodeSeen(name=name, host=host, report=report)
        self._later(self._times.warm_s, lambda: self._warm(name))

    def _warm(self, name: str) -> None:
        if name in self._nodes and not self._nodes[name].lost:
            self._show(name, [_standing_by(number) for number in range(self._limits.ranks_per_node)])

    def _find(self) -> None:
        self._found = True

    def _begin(self, world: tuple[str, ...]) -> None:
        self._generation, self._world, self._found = self._generation + 1, world, False
        self._alive = self._broken.isdisjoint(world)
        self._show_all(trained=False)
        generation = self._generation
        self._later(self._times.start_s, lambda: self._train(generation))

    def _train(self, generation: int) -> None:
        if self._alive and generation == self._generation:
            self._show_all(trained=True)

    def _show_all(self, *, trained: bool) -> None:
        per_node = self._limits.ranks_per_node
        for place, name in enumerate(self._world):
            first = place * per_node
            seats = range(per_node)
            self._show(name, [_seated(first + seat, seat, self._generation, trained=trained) for seat in seats])

    def _set_free(self, generation: int) -> None:
        """The dead ones have been replaced by spares."""
        for name in self._world if generation == self._generation else ():
            if name in self._nodes:
                alive = [rank for rank in self._nodes[name].ranks if rank.state is not RankState.DIED]
                free = [replace(rank, state=RankState.RAISED, is_free=True) for rank in alive]
                spares = [_standing_by(number) for number in range(self._limits.ranks_per_node - len(alive))]
                self._show(name, [*free, *spares])

    def _leave(self, generation: int) -> None:
        if self._alive and generation == self._generation:
            end = RankEnd(state=RunState.RUNNING, step=generation)
            for name in self._world:
                ranks = [replace(one, state=RankState.ENDED, end=end, is_free=True) for one in self._nodes[name].ranks]
                self._show(name, ranks)
            self._alive = False

    def _remove(self, name: str) -> None:
        """It is repaired, or replaced, and offered again."""
        self._broken.discard(name)
        report = self._nodes.pop(name).report
        assert report is not None
        back = OfferedNode(report.node_id, report.host)
        self._later(self._times.repair_s, lambda: self._offered.update({back.node_id: back}))

    def _show(self, name: str, ranks: Sequence[RankReport]) -> None:
        report = self._nodes[name].report
        assert report is not None
        heard = max((rank.generation for rank in ranks), default=0)
        told = replace(report, ranks=tuple(ranks), generation=max(report.generation, heard))
        self._nodes[name] = replace(self._nodes[name], report=told)

    def _later(self, seconds: float, happen: Callable[[], None]) -> None:
        self._born += 1
        heapq.heappush(self._events, (self.now + seconds, self._born, happen))


def _standing_by(pid: int) -> RankReport:
    return RankReport(rank=None, local_rank=None, pid=pid, state=RankState.READY, is_free=True)


def _seated(rank: int, local_rank: int, generation: int, *, trained: bool) -> RankReport:
    return RankReport(
        rank=rank, local_rank=local_rank, pid=local_rank, state=RankState.TRAINING,
        generation=generation, trained=trained, phase="step" if trained else "start",
    )  # fmt: skip
