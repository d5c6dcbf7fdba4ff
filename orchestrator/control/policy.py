"""What the controller does, as a pure function: (state, what is seen, now) -> (next state, decisions).

No Ray, no files, no clock in here; tests walk it one iteration at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from orchestrator.control.faults import describe_problems
from orchestrator.control.jobs import NodeReport, PreparerReport, Problem, RankReport, RankState
from orchestrator.core.errors import CheckpointDamaged
from orchestrator.core.words import ExitCode, RunState, Word

ECHO_PATIENCE_S = 2.0  # how long to look for the cause when ranks only report broken connections
GATHER_S = 1.0  # how long to wait for what other ranks say, once one has named a cause


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The config values that decide."""

    min_nodes: int
    max_nodes: int
    ranks_per_node: int
    restart_budget: int
    start_timeout_s: float | None
    gather_s: float = 1.0  # with min_nodes there, wait this long for more


class Phase(Enum):
    WAITING = auto()  # for nodes
    WARMING = auto()  # node actors start ranks
    RUNNING = auto()
    STOPPING = auto()
    ENDED = auto()


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    phase: Phase
    since: float
    failures: int = 0
    problem_since: float | None = None


class StopWish(Enum):
    NONE = auto()
    AT_BOUNDARY = auto()
    PREEMPTED = auto()  # at a boundary, too, because the machines are about to be taken away
    AT_ONCE = auto()


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """One round of observations. `lost` says why a node no longer answers."""

    ready_nodes: int = 0
    nodes: Sequence[NodeReport] = ()
    expected_nodes: int = 0
    lost: Sequence[str] = ()
    stop: StopWish = StopWish.NONE
    why_waiting: str = ""
    unprepared: PreparerReport | None = None  # preparing ahead has failed: what the ranks will need never comes


@dataclass(frozen=True, slots=True)
class StartNodes:
    """Put node actors and warming ranks onto the ready groups."""


@dataclass(frozen=True, slots=True)
class Begin:
    """All ranks are warm: give them their jobs."""


@dataclass(frozen=True, slots=True)
class Say:
    word: Word


@dataclass(frozen=True, slots=True)
class Restart:
    """End this generation's ranks and start again from the newest sound checkpoint."""

    reason: str
    culprits: tuple[int, ...] = ()  # ranks that told a cause, the first one first


@dataclass(frozen=True, kw_only=True, slots=True)
class Finish:
    state: RunState
    exit_code: ExitCode
    reason: str = ""
    step: int | None = None
    culprits: tuple[int, ...] = ()


Decision = StartNodes | Begin | Say | Restart | Finish


def decide(state: State, seen: Seen, now: float, limits: Limits) -> tuple[State, list[Decision]]:
    if state.phase is Phase.ENDED:
        return state, []
    if seen.stop is StopWish.AT_ONCE:
        return _finish(state, now, _stopped("stopped at once; steps since the last checkpoint are given up"))
    if state.phase is Phase.WAITING:
        return _while_waiting(state, seen, now, limits)
    if seen.lost:
        return _after_loss(state, now, limits, "; ".join(seen.lost))
    return _while_ranks_live(state, seen, now, limits)


def _while_waiting(state: State, seen: Seen, now: float, limits: Limits) -> tuple[State, list[Decision]]:
    waited = now - state.since
    if seen.stop is not StopWish.NONE:
        return _finish(state, now, _stopped("stopped before it had started", seen.stop))
    if seen.unprepared is not None:
        return _finish(state, now, _cannot_prepare(seen.unprepared))
    enough = seen.ready_nodes >= limits.min_nodes
    if seen.ready_nodes >= limits.max_nodes or (enough and waited >= limits.gather_s):
        return replace(state, phase=Phase.WARMING, since=now), [StartNodes()]
    if limits.start_timeout_s is not None and waited > limits.start_timeout_s:
        reason = (
            f"{seen.ready_nodes} of cluster.nodes.min={limits.min_nodes} nodes after "
            f"cluster.start_timeout_s={limits.start_timeout_s:g}: {seen.why_waiting}"
        )
        return _finish(state, now, Finish(state=RunState.FAILED, exit_code=ExitCode.FAILED, reason=reason))
    return state, []


def _while_ranks_live(state: State, seen: Seen, now: float, limits: Limits) -> tuple[State, list[Decision]]:
    ranks = [rank for node in seen.nodes for rank in node.ranks]
    died = [r for r in ranks if r.state is RankState.DIED]
    problems = [r.problem for r in ranks if r.problem is not None]
    causes = [p for p in problems if not p.collateral]
    since = now if state.problem_since is None else state.problem_since
    if causes:
        all_told = all(r.state in (RankState.RAISED, RankState.DIED, RankState.ENDED) for r in ranks)
        if not all_told and now - since < GATHER_S:
            return replace(state, problem_since=since), []
        if all(p.kind == CheckpointDamaged.__name__ for p in causes):  # another one may be sound
            return _after_loss(state, now, limits, describe_problems(problems), _culprits(problems))
        return _finish(state, now, _failed(problems))
    if died:
        return _after_loss(state, now, limits, f"rank process {', '.join(str(r.pid) for r in died)} died", _ranks(died))
    if problems:
        if now - since < ECHO_PATIENCE_S:
            return replace(state, problem_since=since), []
        return _after_loss(state, now, limits, describe_problems(problems), _culprits(problems))
    if state.phase is Phase.WARMING:
        return _while_warming(state, seen, ranks, now, limits)
    if ranks and all(r.state is RankState.ENDED for r in ranks):
        return _finish(state, now, _ended(ranks, seen))
    asked = seen.stop is not StopWish.NONE or seen.unprepared is not None
    if asked and state.phase is Phase.RUNNING:
        return replace(state, phase=Phase.STOPPING, since=now), [Say(Word.STOP)]
    return state, []


def _while_warming(
    state: State, seen: Seen, ranks: Sequence[RankReport], now: float, limits: Limits
) -> tuple[State, list[Decision]]:
    if seen.stop is not StopWish.NONE:
        return _finish(state, now, _stopped("stopped before it had started", seen.stop))
    if seen.unprepared is not None:
        return _finish(state, now, _cannot_prepare(seen.unprepared))
    all_there = seen.expected_nodes > 0 and len(ranks) == seen.expected_nodes * limits.ranks_per_node
    has_store = any(node.store for node in seen.nodes)
    if all_there and has_store and all(r.state is RankState.READY for r in ranks):
        return replace(state, phase=Phase.RUNNING, since=now, problem_since=None), [Begin()]
    return state, []


def _after_loss(
    state: State, now: float, limits: Limits, reason: str, culprits: tuple[int, ...] = ()
) -> tuple[State, list[Decision]]:
    failures = state.failures + 1
    if failures > limits.restart_budget:
        text = f"{reason}\nfailure {failures} is above elastic.restart_budget={limits.restart_budget}"
        failed = Finish(state=RunState.FAILED, exit_code=ExitCode.FAILED, reason=text, culprits=culprits)
        return _finish(state, now, failed)
    return State(phase=Phase.WAITING, since=now, failures=failures), [Restart(reason, culprits)]


def _finish(state: State, now: float, finish: Finish) -> tuple[State, list[Decision]]:
    return replace(state, phase=Phase.ENDED, since=now), [finish]


def _stopped(reason: str, wish: StopWish = StopWish.AT_BOUNDARY) -> Finish:
    return Finish(state=RunState.STOPPED, exit_code=_code_of_stop(wish), reason=reason)


def _code_of_stop(wish: StopWish) -> ExitCode:
    return ExitCode.PREEMPTED if wish is StopWish.PREEMPTED else ExitCode.STOPPED


def _failed(problems: Sequence[Problem]) -> Finish:
    """By the first cause. What says that the run can go on later (a store that is down) has not failed it."""
    first = min((p for p in problems if not p.collateral), key=lambda p: p.t)
    return Finish(
        state=RunState.STOPPED if first.exit_code == ExitCode.PREEMPTED else RunState.FAILED,
        exit_code=ExitCode(first.exit_code),
        reason=describe_problems(problems),
        step=first.step,
        culprits=_culprits(problems),
    )


def _culprits(problems: Sequence[Problem]) -> tuple[int, ...]:
    """Ranks with a cause to tell, the first one first."""
    causes = [p for p in problems if not p.collateral]
    return tuple(p.rank for p in sorted(causes, key=lambda p: p.t))


def _ranks(reports: Sequence[RankReport]) -> tuple[int, ...]:
    return tuple(report.rank for report in reports if report.rank is not None)


def _cannot_prepare(report: PreparerReport, step: int | None = None) -> Finish:
    """What says that the run can go on later (a store that is down) has not failed it."""
    return Finish(
        state=RunState.STOPPED if report.exit_code == ExitCode.PREEMPTED else RunState.FAILED,
        exit_code=ExitCode(report.exit_code),
        reason=f"preparing ahead failed at segment {report.segments} of {report.expected}: {report.problem}",
        step=step,
    )


def _ended(ranks: Sequence[RankReport], seen: Seen) -> Finish:
    """All at one step. A reason, told by the ranks that have one, says why a run is done early; otherwise it means that
    what they need is away for now."""
    ends = [r.end for r in ranks]
    places = {(end.state, end.step) if end is not None else None for end in ends}
    if len(places) != 1 or (place := places.pop()) is None:
        reason = f"ranks ended apart: {ends}"
        return Finish(state=RunState.FAILED, exit_code=ExitCode.FAILED, reason=reason)
    state, step = place
    reason = "\n".join(sorted({end.reason for end in ends if end is not None and end.reason}))
    if state is RunState.DONE:
        return Finish(state=state, exit_code=ExitCode.DONE, reason=reason, step=step)
    if seen.unprepared is not None:
        return _cannot_prepare(seen.unprepared, step)
    code = ExitCode.PREEMPTED if reason else _code_of_stop(seen.stop)
    return Finish(state=state, exit_code=code, reason=reason, step=step)
