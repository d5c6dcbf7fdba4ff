"""What the controller sees in one look round, and what the policy knows beside it. Plain data, no Ray.

Comes after gang.py and group.py, which look; before policy.py, which decides."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import NamedTuple

from orchestrator.control.jobs import NodeReport, Notice, PreparerReport, RankReport
from orchestrator.core.drill import Drill


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The config values that decide."""

    min_nodes: int
    max_nodes: int
    ranks_per_node: int
    spare_nodes: int = 0
    start_timeout_s: float | None = None
    heartbeat_timeout_s: float = 5.0
    abort_timeout_s: float = 2.0
    restart_budget: int = 20
    forget_after_s: float = 3600.0
    bad_node_after: int = 3
    bad_node_for_s: float = 3600.0
    drill: Drill = field(default_factory=Drill)
    jitter: float = 0.0  # of 1; another for every run, so that two that block each other do not try in step


class StopWish(Enum):
    NONE = auto()
    AT_BOUNDARY = auto()
    PREEMPTED = auto()  # at a boundary, too, because the machines are about to be taken away
    AT_ONCE = auto()


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeSeen:
    """One node actor. `lost` says why it no longer answers, `notice` why its machine is about to go."""

    name: str
    host: str
    report: NodeReport | None = None
    lost: str = ""
    notice: Notice | None = None

    @property
    def ranks(self) -> tuple[RankReport, ...]:
        return self.report.ranks if self.report is not None else ()


class OfferedNode(NamedTuple):
    """A node whose group is ready and that has no node actor yet."""

    node_id: str
    host: str


class Suspicion(NamedTuple):
    """A loss of this rank was not finite, and was when the step was tried again."""

    rank: int
    step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """One look round. `generation`: of the world that was begun last; of its ranks alone is it told how it goes."""

    generation: int = 0
    nodes: Sequence[NodeSeen] = ()  # in the order in which they came
    offered: Sequence[OfferedNode] = ()
    start_step: int | None = None  # where the next world begins, once it is found
    suspicions: Sequence[Suspicion] = ()  # that have come since the last look
    stop: StopWish = StopWish.NONE
    why_waiting: str = ""
    unprepared: PreparerReport | None = None  # preparing ahead has failed: what the ranks will need never comes


class Seated(NamedTuple):
    """A rank of a world, and its host."""

    host: str
    rank: RankReport


@dataclass(frozen=True, slots=True)
class Crew:
    """A world as it is seen: its nodes that answer, those that are lost, and the ranks that have its jobs."""

    nodes: tuple[NodeSeen, ...]
    lost: tuple[NodeSeen, ...]
    ranks: tuple[Seated, ...]

    @property
    def step(self) -> int:
        """The highest that any rank shows."""
        return max((seated.rank.step for seated in self.ranks), default=0)

    def since(self, step: int) -> "Crew":
        """Of a world that began at `step`: until they come to their first one, ranks and their problems say 0."""
        return replace(self, ranks=tuple(_since(seated, step) for seated in self.ranks))

    def is_complete(self, limits: Limits) -> bool:
        return not self.lost and len(self.ranks) == len(self.nodes) * limits.ranks_per_node


def _since(seated: Seated, step: int) -> Seated:
    rank = seated.rank
    if rank.step >= step:
        return seated
    problem = replace(rank.problem, step=max(rank.problem.step, step)) if rank.problem is not None else None
    return Seated(seated.host, replace(rank, step=step, problem=problem))


def find_crew(world: Sequence[str], seen: Seen) -> Crew:
    """`world`: the names of its node actors."""
    names = set(world)
    members = [node for node in seen.nodes if node.name in names]
    living = tuple(node for node in members if not node.lost)
    ranks = tuple(
        Seated(node.host, rank)
        for node in living
        for rank in node.ranks
        if rank.rank is not None and rank.generation == seen.generation
    )
    return Crew(living, tuple(node for node in members if node.lost), ranks)
