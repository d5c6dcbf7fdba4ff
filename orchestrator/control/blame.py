"""Faults: what has gone wrong in a world, whose it is, and whether trying again makes sense. Pure.

Comes after seen.py; policy.py asks it in every look round while a world lives. A fault is one, however many ranks tell
of it. What a node does again and again is remembered against it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from orchestrator.control.faults import describe_problems
from orchestrator.control.jobs import Problem, RankState
from orchestrator.control.seen import Crew, Limits, NodeSeen, Seated
from orchestrator.core.errors import CheckpointDamaged

GATHER_S = 1.0  # how long to wait for what other ranks say, once one has named a cause
STARTING = ("", "start")  # phases of a rank that joins, builds or restores
MARGIN_S = 0.5  # beyond the heartbeat's time-out: by then a node that is gone has been missed

FaultKind = Literal["rank", "node", "stuck", "raised", "damaged"]


class Raised(NamedTuple):
    """What a rank raised, and where."""

    kind: str
    rank: int
    step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One, whatever it made others say. `hosts`: where its culprits are."""

    kind: FaultKind
    reason: str
    step: int  # the highest that any rank had come to
    culprits: tuple[int, ...] = ()  # ranks, the first one first
    hosts: tuple[str, ...] = ()
    raised: Raised | None = None
    ends_run: tuple[Problem, ...] = ()  # what was told, when trying again would only repeat it


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """What is remembered of a fault."""

    t: float
    hosts: tuple[str, ...]
    evidence: str
    raised: Raised | None = None
    spends_budget: bool = True


@dataclass(frozen=True, slots=True)
class BadNode:
    host: str
    until: float
    evidence: tuple[str, ...]


def has_signs(crew: Crew) -> bool:
    """Something may be wrong: a rank has told of a problem."""
    return any(seated.rank.problem is not None for seated in crew.ranks)


def find_fault(crew: Crew, waited_s: float, failures: Sequence[Failure], limits: Limits) -> Fault | None:
    """`waited_s`: since the first sign. What ranks say of broken connections waits for its cause."""
    problems = [seated.rank.problem for seated in crew.ranks if seated.rank.problem is not None]
    causes = sorted((p for p in problems if not p.collateral), key=lambda p: p.t)
    if any(_is_stated(p) and not _is_damage(p) for p in causes):
        return _find_raised(crew, problems, causes, waited_s, failures, limits)
    if crew.lost:
        return _lose_nodes(crew)
    if dead := [one for one in crew.ranks if one.rank.state is RankState.DIED and one.rank.end is None]:
        return _lose_ranks(crew, dead)
    patience_s = limits.heartbeat_timeout_s + MARGIN_S
    if causes and all(map(_is_damage, causes)):  # or the node whose memory it was is gone
        if waited_s < patience_s:
            return None
        return Fault(kind="damaged", reason=describe_problems(problems), step=crew.step, culprits=_ranks_of(causes))
    if causes:
        return _find_raised(crew, problems, causes, waited_s, failures, limits)
    if problems and waited_s >= patience_s:
        return Fault(kind="raised", reason=describe_problems(problems), step=crew.step)
    return None


def _find_raised(
    crew: Crew,
    problems: Sequence[Problem],
    causes: Sequence[Problem],
    waited_s: float,
    failures: Sequence[Failure],
    limits: Limits,
) -> Fault | None:
    """What we raise ourselves holds everywhere; so does what all raise, or what comes again where it came before."""
    if any(one.rank.state is RankState.TRAINING for one in crew.ranks) and waited_s < GATHER_S:
        return None
    first = causes[0]
    raised = Raised(first.kind, first.rank, first.step)
    kinds = {p.kind for p in causes}
    is_everywhere = crew.is_complete(limits) and len(causes) == len(crew.ranks) and len(kinds) == 1
    hopeless = any(map(_is_stated, causes)) or is_everywhere or _came_before(raised, failures)
    return Fault(
        kind="raised",
        reason=describe_problems(problems),
        step=crew.step,
        culprits=_ranks_of(causes),
        hosts=tuple(dict.fromkeys(p.node for p in causes)),
        raised=raised,
        ends_run=tuple(problems) if hopeless else (),
    )


def _is_stated(problem: Problem) -> bool:
    """One of our own errors, which says all there is to say; of others the traceback is told."""
    return not problem.traceback


def _is_damage(problem: Problem) -> bool:
    """Another checkpoint, or an older snapshot, may be sound."""
    return problem.kind == CheckpointDamaged.__name__


def _came_before(raised: Raised, failures: Iterable[Failure]) -> bool:
    """At the same step, or to the same rank before it had come any further."""
    earlier = [failure.raised for failure in failures if failure.raised and failure.raised.kind == raised.kind]
    return any(one.step == raised.step or (one.rank == raised.rank and raised.step < one.step) for one in earlier)


def _lose_nodes(crew: Crew) -> Fault:
    reason = "; ".join(node.lost for node in crew.lost)
    return Fault(kind="node", reason=reason, step=crew.step, hosts=tuple(node.host for node in crew.lost))


def _lose_ranks(crew: Crew, dead: Sequence[Seated]) -> Fault:
    names = [f"rank {rank.rank} on {host} (process {rank.pid}) died" for host, rank in dead]
    evidence = [rank.evidence for _, rank in dead if rank.evidence]
    return Fault(
        kind="stuck" if evidence else "rank",
        reason="\n".join(["; ".join(names), *evidence]),
        step=crew.step,
        culprits=tuple(rank.rank for _, rank in dead if rank.rank is not None),
        hosts=tuple(dict.fromkeys(host for host, _ in dead)),
    )


def _ranks_of(causes: Sequence[Problem]) -> tuple[int, ...]:
    return tuple(problem.rank for problem in causes)


def miss_jobs(crew: Crew, limits: Limits) -> Fault:
    """Ranks that should be training have no job of this world: whoever was to hand it out is gone."""
    taken = Counter(seated.host for seated in crew.ranks)
    missing = [node.host for node in crew.nodes if taken[node.host] < limits.ranks_per_node]
    return Fault(kind="rank", reason=f"ranks on {', '.join(missing)} have not got their jobs", step=crew.step)


def miss_start(crew: Crew, waited_s: float) -> Fault | None:
    """Whoever reads its first batch has come through: a store may take its time."""
    late = [one for one in crew.ranks if one.rank.phase in STARTING and not one.rank.trained and one.rank.end is None]
    names = ", ".join(f"rank {rank.rank} on {host}" for host, rank in late)
    reason = f"after {waited_s:.0f} s these have not come to their first batch: {names}"
    return Fault(kind="stuck", reason=reason, step=crew.step) if late else None


# what is remembered


def remember(failures: Sequence[Failure], new: Failure, limits: Limits) -> tuple[Failure, ...]:
    """What is too old to count for anything is forgotten."""
    memory_s = max(limits.forget_after_s, 2 * limits.bad_node_for_s)
    return (*(failure for failure in failures if new.t - failure.t < memory_s), new)


def count_spent(failures: Sequence[Failure], now: float, limits: Limits) -> int:
    return sum(failure.spends_budget and now - failure.t < limits.forget_after_s for failure in failures)


def find_bad_nodes(failures: Sequence[Failure], now: float, limits: Limits) -> tuple[BadNode, ...]:
    """Nodes that failed too often in a while, each until that while has passed again since."""
    by_host: dict[str, list[Failure]] = {}
    for failure in failures:
        for host in failure.hosts:
            by_host.setdefault(host, []).append(failure)
    found = (_judge_node(host, by_host[host], limits) for host in by_host)
    return tuple(bad for bad in found if bad is not None and now < bad.until)


def _judge_node(host: str, failures: Sequence[Failure], limits: Limits) -> BadNode | None:
    """By the last of its failures that had enough others before it."""
    for last in reversed(failures):
        lately = [one for one in failures if 0 <= last.t - one.t < limits.bad_node_for_s]
        if len(lately) >= limits.bad_node_after:
            return BadNode(host, last.t + limits.bad_node_for_s, tuple(one.evidence for one in lately))
    return None


def is_bad(node: NodeSeen, bad: Iterable[BadNode]) -> bool:
    return any(node.host == one.host for one in bad)
