"""What the controller does, as a pure function: (state, what is seen, now) -> (next state, decisions).

One world of ranks lives at a time; nodes, their ranks and what they hold in memory outlive it:

    WAITING  -> FORMING    enough nodes have enough free ranks: what to go on from is looked for
    FORMING  -> TRAINING   it is found: every rank gets its job
             -> WAITING    a node, or too many ranks, were lost meanwhile
    TRAINING -> LEAVING    nodes have come, or have to go: all ranks leave at one step boundary
             -> STOPPING   somebody wants it, or too few nodes will be left: the same, with a checkpoint
    TRAINING, LEAVING -> WAITING               all ranks have left (some worlds are left unasked)
    TRAINING, LEAVING, STOPPING -> ABORTING    a fault (blame.py): whatever holds up its ranks is cut
    ABORTING -> WAITING    every rank of the broken world is free or dead; who takes too long is killed
    any      -> ENDED      the ranks are done or have stopped, or going on makes no sense

Whatever is seen of the ranks counts only if it is of the world that was begun last. Nodes that are lost are dropped in
every phase, by themselves no reason to end a world that they are not of. A new controller begins in ABORTING if the
last world is known to be broken, else in TRAINING if one was begun and not ended, whatever has become of it: then ranks
that have left, have died or never got their jobs lead out of it like in any other look round. No Ray, no files, no
clock in here; tests walk it one look at a time."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto

from orchestrator.control import endings
from orchestrator.control.blame import (
    BadNode,
    Failure,
    Fault,
    count_spent,
    find_bad_nodes,
    find_fault,
    has_signs,
    miss_jobs,
    miss_start,
    remember,
)
from orchestrator.control.decisions import (
    Avoid,
    Begin,
    Break,
    BurySpare,
    Decision,
    Drop,
    Finish,
    Freed,
    GiveBack,
    Kill,
    Leave,
    Left,
    Release,
    Seek,
    StartNodes,
    Stop,
    Why,
)
from orchestrator.control.jobs import RankEnd, RankState
from orchestrator.control.membership import (
    choose_world,
    count_wanted,
    find_leaving,
    find_released,
    must_stop,
    why_going,
)
from orchestrator.control.seen import Crew, Limits, NodeSeen, Seen, StopWish, find_crew
from orchestrator.core.words import RunState

GATHER_S = 1.0  # with the fewest nodes there, wait this long for more
REFILL_S = 10.0  # so long does a world wait for ranks that are about to be warm again
WARM_S = 300.0  # and the first world, for those that have never been
HALF_HELD_S = 20.0  # so long some of the nodes are held, though they are too few
HALF_HELD_MOST_S = 300.0
LEAST_START_S, STARTS_TO_WAIT = 120.0, 3  # a world that takes longer, and so many times the longest start, is stuck
FREE_S = 10.0  # after which a node that cannot end its ranks is given up


class Phase(Enum):
    WAITING = auto()
    FORMING = auto()
    TRAINING = auto()
    LEAVING = auto()
    STOPPING = auto()
    ABORTING = auto()
    ENDED = auto()


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """`world`: the node actors of the world that was begun last, by place."""

    phase: Phase
    since: float
    world: tuple[str, ...] = ()
    why: Why = "start"  # what makes the next world necessary
    step: int = 0  # at which the last world was begun, or to which it had come when it was left
    failures: tuple[Failure, ...] = ()
    avoided: tuple[BadNode, ...] = ()
    buried: frozenset[tuple[str, int]] = frozenset()  # host and pid of spares whose deaths have been counted
    killed: tuple[int, ...] = ()  # while ABORTING
    starting_since: float | None = None  # None: all of its ranks have begun a step
    longest_start_s: float | None = None  # of the worlds until now
    signs_since: float | None = None  # of a fault whose cause is not known yet
    idle_since: float | None = None  # since when nodes could come in
    half_since: float | None = None  # since when some nodes are held, but too few
    given_back: int = 0  # how often
    preempted: bool = False  # the run stops because its machines go


Step = tuple[State, list[Decision]]


def is_calm(state: State) -> bool:
    """Nothing is waited for that takes less than seconds; all else is seen when it is told."""
    return state.phase is Phase.TRAINING and state.signs_since is None and state.idle_since is None


def decide(state: State, seen: Seen, now: float, limits: Limits) -> Step:
    if state.phase is Phase.ENDED:
        return state, []
    if seen.stop is StopWish.AT_ONCE:
        return _finish(state, now, endings.stop_at_once())
    state, kept = _keep_nodes(state, seen, now, limits)
    if state.phase is not Phase.ENDED:
        state, decided = _PHASES[state.phase](state, seen, now, limits)
        kept += decided
    return state, kept


# in every phase: nodes and what is remembered of them


def _keep_nodes(state: State, seen: Seen, now: float, limits: Limits) -> Step:
    """What died before it was of use, and numbers that went wrong, are put down to nodes; lost nodes are dropped."""
    failures = state.failures
    state, decisions = _bury_spares(state, seen, now, limits)
    state = _count_unborn(state, seen, now, limits)
    spent = count_spent(state.failures, now, limits)
    if state.failures != failures and spent > limits.restart_budget:
        state, finish = _finish(state, now, endings.spend_budget(spent, state.failures[-1].evidence, (), limits))
        return state, decisions + finish
    state = _suspect(state, seen, now, limits)
    bad = find_bad_nodes(state.failures, now, limits)
    decisions += [Avoid(one) for one in bad if one not in state.avoided]
    decisions += [Drop(node.name, node.host, node.lost) for node in seen.nodes if node.lost]
    return replace(state, avoided=bad), decisions


def _bury_spares(state: State, seen: Seen, now: float, limits: Limits) -> Step:
    """They cost nothing, but ranks that always die before their first job would go on doing so."""
    decisions: list[Decision] = []
    for node in seen.nodes:
        for rank in node.ranks:
            if rank.state is not RankState.DIED or rank.generation > 0 or (node.host, rank.pid) in state.buried:
                continue
            evidence = rank.evidence or f"process {rank.pid} on {node.host} died before it had a job"
            failures = remember(state.failures, Failure(t=now, hosts=(node.host,), evidence=evidence), limits)
            state = replace(state, failures=failures, buried=state.buried | {(node.host, rank.pid)})
            decisions.append(BurySpare(node.host, rank.pid, evidence))
    return state, decisions


def _count_unborn(state: State, seen: Seen, now: float, limits: Limits) -> State:
    """Nodes lost before any of their ranks was warm: where no world trains, that could go on for ever."""
    lost = [node for node in seen.nodes if node.lost and node.name not in state.world]
    unborn = [node for node in lost if all(rank.state is RankState.WARMING for rank in node.ranks)]
    if not unborn:
        return state
    hosts, is_vital = tuple(node.host for node in unborn), state.phase is Phase.WAITING
    failure = Failure(t=now, hosts=hosts, evidence=unborn[0].lost, spends_budget=is_vital)
    return replace(state, failures=remember(state.failures, failure, limits))


def _suspect(state: State, seen: Seen, now: float, limits: Limits) -> State:
    hosts = {one.rank.rank: one.host for one in find_crew(state.world, seen).ranks} if seen.suspicions else {}
    for rank, step in seen.suspicions:
        if rank in hosts:
            evidence = f"the loss of rank {rank} at step {step} was not finite, and was when it was computed again"
            failure = Failure(t=now, hosts=(hosts[rank],), evidence=evidence, spends_budget=False)
            state = replace(state, failures=remember(state.failures, failure, limits))
    return state


# between worlds


def _while_waiting(state: State, seen: Seen, now: float, limits: Limits) -> Step:
    world = _choose(state, seen, now, limits)
    waited = now - state.since
    worth_saving = bool(state.world) and (world is not None or waited < REFILL_S)  # it goes on, to stop well
    if seen.stop is not StopWish.NONE and not worth_saving:
        return _finish(state, now, endings.stop_between_worlds(seen.stop))
    if seen.unprepared is not None and not worth_saving:
        return _finish(state, now, endings.cannot_prepare(seen.unprepared))
    if world is not None:
        return replace(state, phase=Phase.FORMING, since=now, half_since=None), [Seek()]
    there = len(seen.offered) + sum(not node.lost for node in seen.nodes)
    if limits.start_timeout_s is not None and waited > limits.start_timeout_s and there < limits.min_nodes:
        return _finish(state, now, endings.give_up_waiting(there, seen, limits))
    if state.world or seen.nodes or there >= limits.min_nodes:
        return replace(state, half_since=None), _start_offered(seen)
    return _hold_half(state, seen, now, limits)


def _hold_half(state: State, seen: Seen, now: float, limits: Limits) -> Step:
    """Two runs that each hold what the other waits for: both give back, and not in step."""
    if not seen.offered:
        return replace(state, half_since=None), []
    if state.half_since is None:
        return replace(state, half_since=now), []
    hold_s = min(HALF_HELD_S * 2**state.given_back, HALF_HELD_MOST_S) * (0.5 + limits.jitter)
    if now - state.half_since < hold_s:
        return state, []
    return replace(state, half_since=None, given_back=state.given_back + 1), [GiveBack(again_in_s=hold_s)]


def _choose(state: State, seen: Seen, now: float, limits: Limits) -> tuple[str, ...] | None:
    waited = now - state.since
    patient = waited < (REFILL_S if state.world else WARM_S)
    world = choose_world(seen.nodes, state.world, state.avoided, state.step, limits, patient=patient)
    gathers = not state.world and waited < GATHER_S
    return None if world is not None and gathers and len(world) < count_wanted(state.step, limits) else world


def _start_offered(seen: Seen) -> list[Decision]:
    return [StartNodes(tuple(node.node_id for node in seen.offered))] if seen.offered else []


def _while_forming(state: State, seen: Seen, now: float, limits: Limits) -> Step:
    """A node that is lost now may hold a part of what is found."""
    world = choose_world(seen.nodes, state.world, state.avoided, state.step, limits, patient=False)
    if world is None or any(node.lost for node in seen.nodes):
        return replace(state, phase=Phase.WAITING, since=now), []
    if seen.start_step is None or (now - state.since < limits.abort_timeout_s and _are_leaving(state, seen)):
        return state, []
    begun = replace(state, phase=Phase.TRAINING, since=now, world=world, step=seen.start_step, starting_since=now)
    return replace(begun, idle_since=None, preempted=False), [Begin(world, state.why)]


def _are_leaving(state: State, seen: Seen) -> bool:
    """Ranks of the last world are about to be free. With all that they have loaded they begin sooner than spares do."""
    return any(_find_held(node, seen.generation) for node in find_crew(state.world, seen).nodes)


# while a world lives


def _while_world_lives(state: State, seen: Seen, now: float, limits: Limits) -> Step:
    crew = find_crew(state.world, seen).since(state.step)
    since = None
    if has_signs(crew):
        since = now if state.signs_since is None else state.signs_since
    fault = find_fault(crew, now - since if since is not None else 0.0, state.failures, limits)
    state = replace(state, signs_since=since)
    if fault is None and not crew.is_complete(limits):
        if now - state.since <= limits.heartbeat_timeout_s:
            return state, []
        fault = miss_jobs(crew, limits)
    if fault is None and state.starting_since is not None:
        state, fault = _watch_start(state, crew, now, state.starting_since)
    if fault is not None:
        return _break_up(state, fault, crew, now, limits)
    if since is not None:
        return state, []
    if all(seated.rank.end is not None for seated in crew.ranks):
        return _after_end(state, crew, seen, now)
    return _steer(state, crew, seen, now, limits)


def _watch_start(state: State, crew: Crew, now: float, since: float) -> tuple[State, Fault | None]:
    """The first world has the time-out of its collectives. A limit that proves too short is longer the next time."""
    took_s, before_s = now - since, state.longest_start_s
    timed = replace(state, starting_since=None, longest_start_s=max(took_s, before_s or 0.0))
    if all(seated.rank.trained for seated in crew.ranks):
        return timed, None
    if before_s is None or took_s <= max(LEAST_START_S, STARTS_TO_WAIT * before_s):
        return state, None
    fault = miss_start(crew, took_s)
    return (timed, fault) if fault is not None else (state, None)


def _break_up(state: State, fault: Fault, crew: Crew, now: float, limits: Limits) -> Step:
    """Ranks that were about to leave for a reason still tell how far the run has to go back; those whose nodes are gone
    do not even tell where their world began."""
    fault = replace(fault, step=max(fault.step, state.step))
    if fault.ends_run:
        return _finish(state, now, endings.fail_by(fault))
    failure = Failure(t=now, hosts=fault.hosts, evidence=fault.reason.splitlines()[0], raised=fault.raised)
    failures = remember(state.failures, failure, limits)
    spent = count_spent(failures, now, limits)
    if spent > limits.restart_budget:
        return _finish(state, now, endings.spend_budget(spent, fault.reason, fault.culprits, limits))
    ends = [seated.rank.end for seated in crew.ranks]
    back_to = min((end.back_to for end in ends if end is not None and end.back_to is not None), default=None)
    broken = replace(state, phase=Phase.ABORTING, since=now, why="fault", step=fault.step, signs_since=None)
    return replace(broken, failures=failures, killed=()), [Break(fault, back_to)]


def _after_end(state: State, crew: Crew, seen: Seen, now: float) -> Step:
    ends = [seated.rank.end for seated in crew.ranks]
    end = endings.sum_ends(ends)
    if end is None:
        return _finish(state, now, endings.end_apart(ends))
    if end.state is RunState.RUNNING:
        return _leave_behind(state, end, now)
    wish = StopWish.PREEMPTED if state.preempted else seen.stop
    return _finish(state, now, endings.end_together(end, seen, wish))


def _leave_behind(state: State, end: RankEnd, now: float) -> Step:
    why: Why = "resize" if end.back_to is None else "back"
    left = replace(state, phase=Phase.WAITING, since=now, why=why, step=end.step)
    return left, [Left(end.step, end.back_to, end.reason)]


def _steer(state: State, crew: Crew, seen: Seen, now: float, limits: Limits) -> Step:
    """Nothing is wrong: another word may have to be said, and nodes may come and go."""
    if state.phase is not Phase.TRAINING:
        return state, []
    preempted = must_stop(seen.nodes, state.world, limits)
    if preempted or seen.stop is not StopWish.NONE or seen.unprepared is not None:
        return replace(state, phase=Phase.STOPPING, since=now, preempted=preempted), [Stop()]
    decisions = _start_offered(seen)
    if not all(seated.rank.trained for seated in crew.ranks):  # what came before it may still be read from
        return state, decisions
    released = find_released(seen.nodes, state.world, state.avoided)
    decisions += [Release(node.name, node.host, why_going(node)) for node in released]
    leaving = find_leaving(seen.nodes, state.world, state.avoided, limits)
    if leaving is None:
        return replace(state, idle_since=None), decisions
    idle_since = now if state.idle_since is None else state.idle_since
    if leaving.can_wait and now - idle_since < GATHER_S:
        return replace(state, idle_since=idle_since), decisions
    return replace(state, phase=Phase.LEAVING, since=now, idle_since=None), [*decisions, Leave(leaving)]


def _while_aborting(state: State, seen: Seen, now: float, limits: Limits) -> Step:
    """A node that has not heard of the broken world yet may still be about to begin it."""
    waited = now - state.since
    nodes = [node for node in find_crew(state.world, seen).nodes if not _is_out(node, seen.generation)]
    if not nodes:
        return replace(state, phase=Phase.WAITING, since=now), [_tell_freed(state, seen)]
    kills = [Kill(node.name, node.host, pids) for node in nodes if (pids := _find_held(node, seen.generation))]
    if kills and not state.killed and waited >= limits.abort_timeout_s:
        return replace(state, killed=tuple(pid for kill in kills for pid in kill.pids)), [*kills]
    if waited >= limits.abort_timeout_s + FREE_S:
        return state, [Drop(node.name, node.host, "cannot end its ranks") for node in nodes]
    return state, []


def _tell_freed(state: State, seen: Seen) -> Freed:
    """Some may have got free after all."""
    chosen = [one.rank for one in find_crew(state.world, seen).ranks if one.rank.pid in state.killed]
    free = {rank.pid for rank in chosen if rank.is_free}
    evidence = tuple(rank.evidence for rank in chosen if rank.evidence and not rank.is_free)
    return Freed(tuple(pid for pid in state.killed if pid not in free), evidence)


def _is_out(node: NodeSeen, generation: int) -> bool:
    heard = node.report is not None and node.report.generation >= generation
    return heard and not _find_held(node, generation)


def _find_held(node: NodeSeen, generation: int) -> tuple[int, ...]:
    """Processes that are still in the last world, as far as is known."""
    ranks = [rank for rank in node.ranks if rank.generation == generation and rank.rank is not None]
    return tuple(rank.pid for rank in ranks if not rank.is_free and rank.state is not RankState.DIED)


def _finish(state: State, now: float, finish: Finish) -> Step:
    return replace(state, phase=Phase.ENDED, since=now), [finish]


_PHASES: dict[Phase, Callable[[State, Seen, float, Limits], Step]] = {
    Phase.WAITING: _while_waiting,
    Phase.FORMING: _while_forming,
    Phase.TRAINING: _while_world_lives,
    Phase.LEAVING: _while_world_lives,
    Phase.STOPPING: _while_world_lives,
    Phase.ABORTING: _while_aborting,
}
