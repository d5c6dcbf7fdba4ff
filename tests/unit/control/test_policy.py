"""The controller's decisions, one look round at a time."""

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.control.blame import Raised
from orchestrator.control.decisions import (
    Begin,
    Break,
    BurySpare,
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
)
from orchestrator.control.jobs import Notice, PreparerReport, Problem, RankEnd, RankState
from orchestrator.control.policy import Phase, State, decide, is_calm
from orchestrator.control.seen import Limits, NodeSeen, Seen, StopWish, Suspicion
from orchestrator.core.drill import Drill
from orchestrator.core.words import ExitCode, RunState
from tests.fakes.seen_nodes import (
    READY,
    died,
    ended,
    freed,
    node,
    offered,
    raised,
    seen,
    training,
    world,
)

LIMITS = Limits(
    min_nodes=1, max_nodes=2, ranks_per_node=2, restart_budget=2, start_timeout_s=30.0, heartbeat_timeout_s=5.0
)
WAITING = State(phase=Phase.WAITING, since=0.0)
AGAIN = State(phase=Phase.WAITING, since=0.0, world=("a", "b"), why="fault")
TRAINING = State(phase=Phase.TRAINING, since=0.0, world=("a", "b"))
ABORTING = replace(TRAINING, phase=Phase.ABORTING, why="fault")
LEAVING = replace(TRAINING, phase=Phase.LEAVING)
CAUSE = Problem(
    rank=0, node="host-a", step=7, kind="ValueError", message="bad", traceback="...", t=5.0, collateral=False
)
STATED = replace(CAUSE, kind="TrainingFailed", traceback="")
ECHO = replace(CAUSE, t=4.0, collateral=True, kind="RuntimeError")
DAMAGED = replace(STATED, kind="CheckpointDamaged", message="s3://kept: bytes differ")
LEFT = RankEnd(state=RunState.RUNNING, step=9)
DONE = RankEnd(state=RunState.DONE, step=12)
STOPPED = RankEnd(state=RunState.STOPPED, step=9)
GOING = Notice(reason="the spot market wants it", until=100.0)


def finish_of(state: State, look: Seen, now: float = 1.0, limits: Limits = LIMITS) -> Finish:
    after, decisions = decide(state, look, now, limits)
    assert after.phase is Phase.ENDED
    [finish] = [decision for decision in decisions if isinstance(decision, Finish)]
    return finish


def all_ended(end: RankEnd) -> list[NodeSeen]:
    return world("a", "b", **{f"r{rank}": ended(rank, end) for rank in range(4)})


def all_raised(problem: Problem) -> list[NodeSeen]:
    return world("a", "b", **{f"r{rank}": raised(rank, problem) for rank in range(4)})


# waiting for nodes and ranks


@pytest.mark.parametrize(
    ("nodes", "least", "ready", "starts"),
    [
        ((), 1, ("a",), ("a",)),
        ((), 2, ("a",), ()),  # half of what it needs: not yet
        ((), 2, ("a", "b"), ("a", "b")),
        (("a",), 2, ("b",), ("b",)),
    ],
)
def test_node_actors_are_started_once_there_are_enough_nodes(
    nodes: tuple[str, ...], least: int, ready: tuple[str, ...], starts: tuple[str, ...]
) -> None:
    look = seen([node(name) for name in nodes], offered=offered(*ready))
    _, decisions = decide(WAITING, look, 0.1, replace(LIMITS, min_nodes=least))
    assert decisions == ([StartNodes(tuple(f"id-{name}" for name in starts))] if starts else [])


@pytest.mark.parametrize(
    ("nodes", "waited", "begins"),
    [
        ([node("a"), node("b")], 0.1, True),
        ([node("a")], 0.5, False),  # a moment for more
        ([node("a")], 1.0, True),
        ([node("a"), node("b", replace(READY, is_free=False), READY)], 5.0, False),  # another one is warming
        ([node("a", deaf=True), node("b")], 5.0, False),
        ([node("a", READY)], 5.0, False),  # too few ranks
        ([node("a"), NodeSeen(name="b", host="b")], 5.0, False),  # has not said anything yet
        ([node("a"), NodeSeen(name="b", host="b")], 301.0, True),  # nor will it
    ],
)
def test_the_first_world_waits_for_every_rank_to_be_warm(nodes: list[NodeSeen], waited: float, begins: bool) -> None:
    state, decisions = decide(WAITING, seen(nodes), waited, LIMITS)
    assert (state.phase, decisions) == ((Phase.FORMING, [Seek()]) if begins else (Phase.WAITING, []))


def test_a_world_begins_when_what_to_go_on_from_is_found() -> None:
    forming, _ = decide(WAITING, seen([node("a"), node("b")]), 0.1, LIMITS)
    assert decide(forming, seen([node("a"), node("b")]), 0.2, LIMITS) == (forming, [])
    state, decisions = decide(forming, seen([node("a"), node("b")], start_step=0), 0.3, LIMITS)
    assert decisions == [Begin(("a", "b"), "start")]
    assert (state.phase, state.world) == (Phase.TRAINING, ("a", "b"))


def test_ranks_that_are_about_to_be_free_of_a_world_are_waited_for_though_spares_are_free() -> None:
    forming = replace(AGAIN, phase=Phase.FORMING, world=("a",), why="resize", since=10.0)
    spares = [replace(READY, pid=pid) for pid in (1, 2)]
    leaving = seen([node("a", ended(0, LEFT), ended(1, LEFT, is_free=True), *spares)], start_step=9)
    assert decide(forming, leaving, 10.0 + LIMITS.abort_timeout_s - 0.1, LIMITS) == (forming, [])
    assert decide(forming, leaving, 10.0 + LIMITS.abort_timeout_s, LIMITS)[1] == [Begin(("a",), "resize")]
    out = seen([node("a", died(0), ended(1, LEFT, is_free=True), *spares)], start_step=9)
    assert decide(forming, out, 10.1, LIMITS)[1] == [Begin(("a",), "resize")]


def test_a_node_lost_while_the_state_is_looked_for_makes_the_search_begin_again() -> None:
    forming = replace(AGAIN, phase=Phase.FORMING)
    lost = [node("a"), node("b", lost="silent")]
    state, decisions = decide(forming, seen(lost, start_step=0), 0.3, LIMITS)
    assert (state.phase, decisions) == (Phase.WAITING, [Drop("b", "host-b", "silent")])
    assert decide(state, seen([node("a")]), 0.4, LIMITS)[1] == [Seek()]


def test_too_few_nodes_wait_until_the_time_out_and_say_why() -> None:
    assert decide(WAITING, seen([]), 29.0, LIMITS) == (WAITING, [])
    assert decide(WAITING, seen([]), 1e6, replace(LIMITS, start_timeout_s=None)) == (WAITING, [])
    finish = finish_of(WAITING, seen([], why_waiting="h1 has 1 CPU"), 31.0)
    assert finish.state is RunState.FAILED
    assert "h1 has 1 CPU" in finish.reason


def test_of_two_runs_that_hold_half_of_what_they_need_each_gives_back_in_its_own_time() -> None:
    half, limits = seen([], offered=offered("a")), replace(LIMITS, min_nodes=2, start_timeout_s=None)
    since: dict[float, float] = {}
    for jitter in (0.0, 0.8):
        state, now = WAITING, 0.0
        while jitter not in since:
            state, decisions = decide(state, half, now, replace(limits, jitter=jitter))
            if decisions:
                assert isinstance(decisions[0], GiveBack)
                since[jitter] = now
            now += 1.0
    assert since[0.8] - since[0.0] > 5.0
    assert decide(state, seen([]), 500.0, limits)[0].half_since is None
    later, [_] = decide(replace(state, half_since=0.0), half, 500.0, limits)
    assert later.given_back == 2


# a fault


def test_a_dead_rank_breaks_the_world_and_the_next_one_begins_from_what_survivors_hold() -> None:
    state, [broken] = decide(TRAINING, seen(world("a", "b", r3=died(3))), 10.0, LIMITS)
    assert isinstance(broken, Break)
    assert (broken.fault.kind, broken.fault.culprits, broken.fault.hosts) == ("rank", (3,), ("host-b",))
    assert state.phase is Phase.ABORTING
    held = seen(world("a", "b", r0=freed(0), r1=freed(1), r3=died(3)))
    assert decide(state, held, 10.1, LIMITS) == (state, [])
    survivors = [freed(0), freed(1)], [freed(2), died(3)]
    free = [node("a", *survivors[0]), node("b", *survivors[1])]
    state, decisions = decide(state, seen(free), 10.2, LIMITS)
    assert decisions == [Freed(())]
    assert decide(state, seen(free), 10.3, LIMITS) == (state, [])  # its place is about to be taken
    refilled = seen([node("a", *survivors[0]), node("b", *survivors[1], READY)])
    state, decisions = decide(state, refilled, 10.4, LIMITS)
    assert decisions == [Seek()]
    _, [begin] = decide(state, replace(refilled, start_step=0), 10.5, LIMITS)
    assert begin == Begin(("a", "b"), "fault")


def test_a_fault_of_a_world_that_is_still_starting_is_at_the_step_that_it_begins_from() -> None:
    forming = replace(AGAIN, phase=Phase.FORMING, step=52)
    state, _ = decide(forming, seen([node("a"), node("b")], start_step=40), 0.1, LIMITS)
    joining = {f"r{rank}": training(rank, step=0, phase="start", trained=False) for rank in (0, 1, 2)}
    nodes = world("a", "b", r3=died(3, step=0, trained=False), **joining)
    state, [broken] = decide(state, seen(nodes), 0.2, LIMITS)
    assert isinstance(broken, Break)
    assert (broken.fault.step, state.step) == (40, 40)


def test_a_fault_of_a_world_of_which_nothing_is_left_is_not_before_the_step_that_it_began_from() -> None:
    alone = replace(TRAINING, world=("a",), step=40)
    _, decisions = decide(alone, seen([replace(world("a")[0], lost="silent")]), 9.0, LIMITS)
    [broken] = [one for one in decisions if isinstance(one, Break)]
    assert broken.fault.step == 40


def test_ranks_that_do_not_get_free_are_killed_and_a_node_that_cannot_do_it_is_given_up() -> None:
    held = seen(world("a", "b", r0=freed(0), r1=freed(1), r3=freed(3)))
    assert decide(ABORTING, held, 1.9, LIMITS) == (ABORTING, [])
    state, decisions = decide(ABORTING, held, 2.0, LIMITS)
    assert decisions == [Kill("b", "host-b", (102,))]
    assert decide(state, held, 2.1, LIMITS) == (state, [])
    dead = replace(died(2), evidence="stuck in wait")
    gone = seen(world("a", "b", r0=freed(0), r1=freed(1), r2=dead, r3=freed(3)))
    assert decide(state, gone, 2.2, LIMITS)[1] == [Freed((102,), ("stuck in wait",))]
    late = seen(world("a", "b", r0=freed(0), r1=freed(1), r2=freed(2), r3=freed(3)))
    assert decide(state, late, 2.2, LIMITS)[1] == [Freed(())]
    assert decide(state, held, 12.1, LIMITS)[1] == [Drop("b", "host-b", "cannot end its ranks")]


def test_what_ranks_tell_while_they_are_aborted_is_no_new_fault() -> None:
    state, decisions = decide(ABORTING, seen(all_raised(STATED)), 0.5, LIMITS)
    assert (state, decisions) == (ABORTING, [])


def test_ranks_of_an_earlier_generation_say_nothing_about_this_one() -> None:
    old = [node("a", training(0), training(1), died(1, generation=0)), node("b", training(2), training(3))]
    begun = replace(TRAINING, since=9.0)
    assert decide(begun, seen(old, generation=2), 9.1, LIMITS)[0].phase is Phase.TRAINING


@pytest.mark.parametrize("phase", [Phase.TRAINING, Phase.LEAVING, Phase.STOPPING])
def test_a_lost_node_of_the_world_is_a_fault_and_is_dropped_at_once(phase: Phase) -> None:
    nodes = [*world("a"), node("b", training(2), training(3), lost="silent for 5 s")]
    state, decisions = decide(replace(TRAINING, phase=phase), seen(nodes), 10.0, LIMITS)
    assert decisions[0] == Drop("b", "host-b", "silent for 5 s")
    assert isinstance(decisions[1], Break)
    assert (decisions[1].fault.kind, decisions[1].fault.hosts) == ("node", ("host-b",))
    free = seen([node("a", freed(0), freed(1))])
    state, _ = decide(state, free, 10.1, LIMITS)
    assert decide(state, free, 10.2, LIMITS)[1] == [Seek()]  # nobody else is waited for


def test_a_lost_node_that_stood_by_costs_nothing() -> None:
    state, decisions = decide(TRAINING, seen([*world("a", "b"), node("c", lost="gone")]), 10.0, LIMITS)
    assert decisions == [Drop("c", "host-c", "gone")]
    assert (state.phase, state.failures) == (Phase.TRAINING, ())


def test_a_spare_node_takes_the_place_of_a_lost_one_and_the_others_keep_theirs() -> None:
    forming = replace(AGAIN, phase=Phase.FORMING, world=("a", "b", "c"))
    limits = replace(LIMITS, max_nodes=3)
    nodes = [node("a"), node("c"), node("d")]
    _, decisions = decide(forming, seen(nodes, start_step=0), 0.1, limits)
    assert decisions == [Begin(("a", "d", "c"), "fault")]


def test_a_world_that_goes_on_does_not_wait_for_nodes_that_have_never_been_warm() -> None:
    nodes = [node("a"), NodeSeen(name="new", host="new")]
    assert decide(AGAIN, seen(nodes), 0.1, LIMITS)[1] == [Seek()]
    nodes = [node("a"), node("b", replace(READY, is_free=False), READY)]
    assert decide(AGAIN, seen(nodes), 0.1, LIMITS)[1] == []
    assert decide(AGAIN, seen(nodes), 10.0, LIMITS)[1] == [Seek()]


def test_too_few_survivors_wait_for_nodes_while_new_ones_are_put_to_use() -> None:
    limits = replace(LIMITS, min_nodes=2, start_timeout_s=None)
    state, decisions = decide(AGAIN, seen([node("a")], offered=offered("c")), 1e5, limits)
    assert (state.phase, decisions) == (Phase.WAITING, [StartNodes(("id-c",))])


def test_ranks_that_never_got_their_jobs_are_a_fault() -> None:
    """As when the controller died between writing a world down and handing it out."""
    idle = seen([node("a"), node("b")])
    assert decide(TRAINING, idle, 5.0, LIMITS) == (TRAINING, [])
    _, [broken] = decide(TRAINING, idle, 5.1, LIMITS)
    assert isinstance(broken, Break)
    assert "host-a, host-b" in broken.fault.reason


def test_a_node_that_has_not_heard_of_a_broken_world_may_still_begin_it() -> None:
    """A rank died so soon that another node had not got its jobs: they are on their way, and the abort behind them."""
    late = node("b", freed(2, generation=1), freed(3, generation=1))
    look = seen([node("a", freed(0, generation=2), died(1, generation=2), READY), late], generation=2)
    assert decide(ABORTING, look, 0.1, LIMITS) == (ABORTING, [])
    state, decisions = decide(ABORTING, look, 11.9, LIMITS)  # there is nobody to kill
    assert decisions == []
    assert decide(ABORTING, look, 12.0, LIMITS)[1] == [Drop("b", "host-b", "cannot end its ranks")]
    assert late.report is not None
    heard = replace(look, nodes=[look.nodes[0], replace(late, report=replace(late.report, generation=2))])
    assert decide(state, heard, 0.2, LIMITS)[1] == [Freed(())]


def test_what_the_only_rank_heard_of_raises_is_not_everywhere() -> None:
    """The others are about to begin."""
    cause = replace(CAUSE, kind="DistNetworkError", step=0)
    idle = (replace(READY, pid=1), replace(READY, pid=2))
    _, [broken] = decide(TRAINING, seen([node("a", raised(0, cause), READY), node("b", *idle)]), 1.0, LIMITS)
    assert isinstance(broken, Break)


def test_echoes_alone_are_given_time_to_find_their_cause() -> None:
    look = seen(world("a", "b", r0=raised(0, ECHO)))
    state, decisions = decide(TRAINING, look, 10.0, LIMITS)
    assert decisions == []
    assert decide(state, look, 15.4, LIMITS) == (state, [])
    assert isinstance(decide(state, look, 15.6, LIMITS)[1][0], Break)
    dead = seen(world("a", "b", r0=raised(0, ECHO), r3=died(3)))
    _, [broken] = decide(state, dead, 10.1, LIMITS)
    assert isinstance(broken, Break)
    assert broken.fault.culprits == (3,)


def test_failures_are_counted_until_they_are_forgotten() -> None:
    state, dead = TRAINING, seen(world("a", "b", r3=died(3)))
    for now in (0.0, 10.0):
        state, [_] = decide(replace(state, phase=Phase.TRAINING), dead, now, LIMITS)
    forgotten, [broken] = decide(replace(state, phase=Phase.TRAINING), dead, 3600.0, LIMITS)
    assert isinstance(broken, Break)
    assert forgotten.phase is Phase.ABORTING
    finish = finish_of(replace(state, phase=Phase.TRAINING), dead, 3599.0)
    assert "restart_budget=2" in finish.reason
    assert finish.culprits == (3,)


def test_nodes_that_always_fail_before_their_ranks_are_warm_end_the_run_that_waits_for_them() -> None:
    state, fails = WAITING, "node actor a on host-a has failed: start_ranks raised OSError: no room"
    for t in (1.0, 2.0):
        look = seen([NodeSeen(name="a", host="host-a", lost=fails)])
        state, decisions = decide(state, look, t, LIMITS)
        assert decisions == [Drop("a", "host-a", fails)]
    reason = finish_of(state, look, 3.0).reason
    assert fails in reason
    assert "restart_budget=2" in reason


def test_a_node_that_always_fails_to_start_beside_a_world_is_avoided_and_costs_the_run_nothing() -> None:
    state = TRAINING
    for t in (1.0, 2.0, 3.0, 4.0):
        state, decisions = decide(
            state, seen([*world("a", "b"), NodeSeen(name="c", host="host-c", lost="no")]), t, LIMITS
        )
    assert state.phase is Phase.TRAINING
    assert [bad.host for bad in state.avoided] == ["host-c"]
    assert Drop("c", "host-c", "no") in decisions


def test_nodes_that_are_lost_together_while_they_warm_are_one_failure() -> None:
    gone = [NodeSeen(name=name, host=f"host-{name}", lost="power cut") for name in "abcd"]
    state, _ = decide(WAITING, seen(gone), 1.0, LIMITS)
    [failure] = state.failures
    assert failure.hosts == ("host-a", "host-b", "host-c", "host-d")


def test_a_world_that_takes_far_longer_to_start_than_those_before_it_is_broken_and_gets_longer_the_next_time() -> None:
    late = {"r3": training(3, trained=False, phase="start")}
    starting = replace(TRAINING, starting_since=0.0)
    assert decide(starting, seen(world("a", "b", **late)), 599.0, LIMITS)[1] == []  # no world before it
    state, _ = decide(starting, seen(world("a", "b")), 50.0, LIMITS)
    assert (state.starting_since, state.longest_start_s) == (None, 50.0)
    assert decide(state, seen(world("a", "b")), 1e5, LIMITS)[0].longest_start_s == 50.0
    again = replace(state, starting_since=0.0)
    assert decide(again, seen(world("a", "b", **late)), 150.0, LIMITS)[1] == []
    broken, [decision] = decide(again, seen(world("a", "b", **late)), 151.0, LIMITS)
    assert isinstance(decision, Break)
    assert decision.fault.kind == "stuck"
    assert decision.fault.reason.endswith("rank 3 on host-b")
    assert broken.longest_start_s == 151.0


def test_a_start_that_an_earlier_controller_saw_begin_is_measured_from_then() -> None:
    late = {"r3": training(3, trained=False, phase="start")}
    adopted = replace(TRAINING, since=400.0, starting_since=280.0, longest_start_s=1.0)
    assert decide(adopted, seen(world("a", "b", **late)), 400.0, LIMITS)[1] == []
    [broken] = decide(adopted, seen(world("a", "b", **late)), 400.1, LIMITS)[1]
    assert isinstance(broken, Break)


def test_short_starts_leave_later_ones_two_minutes_and_a_first_batch_may_take_longer() -> None:
    quick = replace(TRAINING, starting_since=0.0, longest_start_s=0.5)
    late = training(3, trained=False, phase="start")
    assert decide(quick, seen(world("a", "b", r3=late)), 120.0, LIMITS)[1] == []
    assert len(decide(quick, seen(world("a", "b", r3=late)), 120.1, LIMITS)[1]) == 1
    assert decide(quick, seen(world("a", "b", r3=replace(late, phase="data"))), 1e4, LIMITS)[1] == []


def test_ranks_that_always_die_before_their_first_job_end_the_run() -> None:
    state = WAITING
    for pid in (1, 2):
        look = seen([node("a", replace(READY, pid=pid, state=RankState.DIED, is_free=False))])
        state, [buried] = decide(state, look, float(pid), LIMITS)
        assert isinstance(buried, BurySpare)
        assert decide(state, look, pid + 0.1, LIMITS) == (state, [])  # counted once
    look = seen([node("a", replace(READY, pid=3, state=RankState.DIED, is_free=False))])
    assert "restart_budget=2" in finish_of(state, look, 3.0).reason


# what ranks raise


def test_what_we_raise_ourselves_ends_the_run_with_its_reason() -> None:
    look = seen(world("a", "b", r0=raised(0, STATED), r1=raised(1, ECHO), r2=raised(2, ECHO), r3=raised(3, ECHO)))
    finish = finish_of(TRAINING, look)
    assert (finish.state, finish.exit_code, finish.step, finish.culprits) == (
        RunState.FAILED,
        ExitCode.FAILED,
        7,
        (0,),
    )
    assert finish.reason.startswith("rank 0 on host-a at step 7: TrainingFailed: bad")


def test_what_every_rank_raises_is_the_jobs_own_fault() -> None:
    finish = finish_of(TRAINING, seen(all_raised(CAUSE)))
    assert finish.state is RunState.FAILED
    assert finish.reason.startswith("rank 0, 1, 2, 3 on")


def one_raised(step: int, rank: int = 0, kind: str = "ValueError") -> Seen:
    cause, echo = replace(CAUSE, kind=kind, step=step), replace(ECHO, step=step)
    others = {f"r{other}": raised(other, echo, step=step) for other in range(4) if other != rank}
    return seen(world("a", "b", **{f"r{rank}": raised(rank, cause, step=step)}, **others))


@pytest.mark.parametrize(
    ("then", "ends"),
    [
        ({"step": 7, "rank": 3}, True),  # again at the same step
        ({"step": 5}, True),  # again, to the same rank, and nothing came of the first try
        ({"step": 5, "rank": 3}, False),
        ({"step": 8}, False),  # it has come further
        ({"step": 7, "kind": "OSError"}, False),
    ],
)
def test_what_one_rank_raises_is_tried_again_until_it_repeats_itself(then: dict[str, Any], ends: bool) -> None:
    state, [broken] = decide(TRAINING, one_raised(7), 1.0, LIMITS)
    assert isinstance(broken, Break)
    assert broken.fault.raised == Raised("ValueError", 0, 7)
    again = replace(state, phase=Phase.TRAINING, step=5)
    _, [decision] = decide(again, one_raised(**then), 2.0, LIMITS)
    assert isinstance(decision, Finish if ends else Break)


def test_what_ranks_raise_while_they_start_is_at_the_step_that_their_world_begins_from() -> None:
    """Two starts that have nothing in common but that no step was begun yet."""
    state, [broken] = decide(replace(TRAINING, step=40), one_raised(0, rank=1), 1.0, LIMITS)
    assert isinstance(broken, Break)
    assert broken.fault.raised == Raised("ValueError", 1, 40)
    again = replace(state, phase=Phase.TRAINING, step=60)
    assert isinstance(decide(again, one_raised(0, rank=2), 2.0, LIMITS)[1][0], Break)
    finish = finish_of(replace(state, phase=Phase.TRAINING, step=40), one_raised(0, rank=2), 2.0)
    assert finish.step == 40
    assert "at step 40: ValueError" in finish.reason


def test_one_rank_with_a_cause_is_given_company_for_a_moment() -> None:
    alone = seen(world("a", "b", r1=raised(1, STATED)))
    state, decisions = decide(TRAINING, alone, 1.0, LIMITS)
    assert decisions == []
    assert finish_of(state, alone, 2.0).reason.startswith("rank 1 on")
    assert finish_of(state, seen(all_raised(STATED)), 1.1).reason.startswith("rank 0, 1, 2, 3 on")


def test_a_dead_rank_explains_what_others_raise() -> None:
    look = seen(world("a", "b", r0=raised(0, CAUSE), r3=died(3)))
    _, [broken] = decide(TRAINING, look, 1.0, LIMITS)
    assert isinstance(broken, Break)
    assert broken.fault.kind == "rank"


def test_a_damaged_state_is_no_reason_to_end_once_no_node_turns_out_to_be_lost() -> None:
    state, decisions = decide(TRAINING, seen(all_raised(DAMAGED)), 1.0, LIMITS)
    assert decisions == []
    _, [broken] = decide(state, seen(all_raised(DAMAGED)), 7.0, LIMITS)
    assert isinstance(broken, Break)
    assert broken.fault.kind == "damaged"


def test_a_store_that_is_lost_between_steps_does_not_fail_the_run() -> None:
    away = replace(STATED, kind="StoreDown", message="HTTP 503", exit_code=int(ExitCode.PREEMPTED))
    finish = finish_of(TRAINING, seen(all_raised(away)))
    assert (finish.state, finish.exit_code) == (RunState.STOPPED, ExitCode.PREEMPTED)


# nodes come and go


def test_a_node_that_is_warm_joins_at_a_step_boundary() -> None:
    small = replace(TRAINING, world=("a",))
    look = seen([*world("a"), node("b")])
    state, decisions = decide(small, look, 10.0, LIMITS)
    assert decisions == []  # a moment, for others
    state, [leave] = decide(state, look, 11.0, LIMITS)
    assert isinstance(leave, Leave)
    assert leave.leaving.hosts == ("host-b",)
    assert state.phase is Phase.LEAVING
    partly = seen([node("a", ended(0, LEFT), training(1)), node("b")])
    assert decide(state, partly, 11.1, LIMITS) == (state, [])
    left = seen([node("a", ended(0, LEFT), ended(1, LEFT)), node("b")])
    state, decisions = decide(state, left, 11.2, LIMITS)
    assert decisions == [Left(9, None, "")]
    free = seen([node("a", ended(0, LEFT, is_free=True), ended(1, LEFT, is_free=True)), node("b")])
    state, decisions = decide(state, free, 11.3, LIMITS)
    assert decisions == [Seek()]
    _, decisions = decide(state, replace(free, start_step=0), 11.4, LIMITS)
    assert decisions == [Begin(("a", "b"), "resize")]


@pytest.mark.parametrize(
    ("look", "limits"),
    [
        (seen([*world("a"), node("b", deaf=True)]), LIMITS),
        (seen([*world("a"), node("b")]), replace(LIMITS, max_nodes=1, spare_nodes=1)),
        (seen([*world("a", r1=training(1, trained=False)), node("b")]), LIMITS),
        (seen([*world("a"), node("b")]), replace(LIMITS, drill=Drill(worlds=((0, 1),)))),
    ],
    ids=["not warm", "a spare", "the world has not begun", "a drill says how many"],
)
def test_a_world_is_not_left_for_a_node_that_is_of_no_use_yet(look: Seen, limits: Limits) -> None:
    small = replace(TRAINING, world=("a",), idle_since=0.0)
    state, decisions = decide(small, look, 100.0, limits)
    assert (state.phase, decisions) == (Phase.TRAINING, [])


def test_new_nodes_are_put_to_use_while_a_world_trains() -> None:
    _, decisions = decide(replace(TRAINING, world=("a",)), seen(world("a"), offered=offered("b")), 9.0, LIMITS)
    assert decisions == [StartNodes(("id-b",))]


def test_a_node_that_is_about_to_go_is_left_out_and_given_back_when_the_next_world_trains() -> None:
    going = [*world("a"), node("b", training(2), training(3), notice=GOING)]
    state, [leave] = decide(TRAINING, seen(going), 10.0, LIMITS)
    assert isinstance(leave, Leave)
    assert "host-b is about to go: the spot market wants it" in leave.leaving.reason
    left = [node("a", freed(0), freed(1)), node("b", freed(2), freed(3), notice=GOING)]
    forming = replace(AGAIN, phase=Phase.FORMING, why="resize")
    state, decisions = decide(forming, seen(left, start_step=0), 10.3, LIMITS)
    assert decisions == [Begin(("a",), "resize")]
    begun = [*world("a", generation=2, r1=training(1, 2, trained=False)), left[1]]
    assert decide(state, seen(begun, generation=2), 10.4, LIMITS)[1] == []  # it still serves what it holds
    trains = [*world("a", generation=2), left[1]]
    _, [release] = decide(state, seen(trains, generation=2), 10.5, LIMITS)
    assert isinstance(release, Release)
    assert release.name == "b"


def test_a_run_of_which_too_little_is_left_stops_with_a_checkpoint_and_can_go_on_elsewhere() -> None:
    going = [node("a", training(0), training(1), notice=GOING), node("b", training(2), training(3))]
    limits = replace(LIMITS, min_nodes=2)
    state, decisions = decide(TRAINING, seen(going), 10.0, limits)
    assert (state.phase, decisions) == (Phase.STOPPING, [Stop()])
    finish = finish_of(state, seen(all_ended(STOPPED)), 11.0, limits)
    assert finish == Finish(state=RunState.STOPPED, exit_code=ExitCode.PREEMPTED, step=9)
    spare = [*going, node("c")]
    assert isinstance(decide(TRAINING, seen(spare), 10.0, limits)[1][0], Leave)


def test_between_worlds_nodes_that_go_are_used_only_if_there_are_no_others() -> None:
    """Then the next world stops with a checkpoint."""
    forming = replace(AGAIN, phase=Phase.FORMING)
    nodes = [node("a", notice=GOING), node("b")]
    assert decide(forming, seen(nodes, start_step=0), 1.0, LIMITS)[1] == [Begin(("b",), "fault")]
    limits = replace(LIMITS, min_nodes=2)
    assert decide(forming, seen(nodes, start_step=0), 1.0, limits)[1] == [Begin(("a", "b"), "fault")]


def test_a_node_that_fails_too_often_is_avoided_where_others_are_left() -> None:
    limits = replace(LIMITS, restart_budget=9, bad_node_for_s=100.0)
    state, dead = TRAINING, seen(world("a", "b", r3=died(3)))
    for now in (0.0, 10.0, 20.0):
        state, _ = decide(replace(state, phase=Phase.TRAINING), dead, now, limits)
    free = seen([node("a"), node("b")], start_step=0)
    state, decisions = decide(replace(state, phase=Phase.FORMING), free, 21.0, limits)
    assert [type(decision).__name__ for decision in decisions] == ["Avoid", "Begin"]
    assert decisions[1] == Begin(("a",), "fault")
    assert state.avoided[0].until == 120.0
    assert len(state.avoided[0].evidence) == 3
    both = replace(state, phase=Phase.FORMING, world=("a", "b"))
    needed, decisions = decide(both, free, 22.0, replace(limits, min_nodes=2))
    assert decisions == [Begin(("a", "b"), "fault")]  # and it is told once
    assert decide(needed, seen(world("a", "b")), 121.0, limits)[0].avoided == ()


def test_numbers_that_do_not_repeat_are_put_down_to_their_node_but_spend_no_budget() -> None:
    limits = replace(LIMITS, restart_budget=0, bad_node_after=2)
    state = TRAINING
    for step in (5, 6):
        assert state.phase is Phase.TRAINING
        look = seen(world("a", "b"), suspicions=[Suspicion(3, step)])
        state, decisions = decide(state, look, float(step), limits)
    assert [failure.hosts for failure in state.failures] == [("host-b",)] * 2
    assert [bad.host for bad in state.avoided] == ["host-b"]
    assert isinstance(decisions[-1], Leave)  # the world can do without it


# worlds that are left unasked


def test_a_drills_world_is_entered_with_exactly_its_nodes() -> None:
    limits = replace(LIMITS, min_nodes=2, drill=Drill(worlds=((0, 2), (9, 1))))
    state, decisions = decide(TRAINING, seen(all_ended(LEFT)), 5.0, limits)
    assert decisions == [Left(9, None, "")]
    state, decisions = decide(state, seen([node("a"), node("b")]), 5.1, limits)
    _, decisions = decide(state, seen([node("a"), node("b")], start_step=0), 5.2, limits)
    assert decisions == [Begin(("a",), "resize")]


def test_a_world_that_is_left_to_go_back_says_how_far() -> None:
    back = replace(LEFT, back_to=6, reason="the loss leapt")
    state, decisions = decide(TRAINING, seen(all_ended(back)), 5.0, LIMITS)
    assert decisions == [Left(9, 6, "the loss leapt")]
    assert state.why == "back"
    look = seen(world("a", "b", r0=ended(0, back), r1=ended(1, back), r3=died(3)))
    _, [broken] = decide(TRAINING, look, 5.0, LIMITS)
    assert isinstance(broken, Break)
    assert broken.back_to == 6


def test_a_rank_that_dies_after_it_has_left_does_not_hold_up_the_others() -> None:
    look = seen(world("a", "b", r3=died(3, end=LEFT), **{f"r{r}": ended(r, LEFT) for r in range(3)}))
    assert decide(LEAVING, look, 5.0, LIMITS)[1] == [Left(9, None, "")]


# stopping


def test_a_stop_is_said_once_and_ends_when_the_ranks_have() -> None:
    look = seen(world("a", "b"), stop=StopWish.AT_BOUNDARY)
    state, decisions = decide(TRAINING, look, 1.0, LIMITS)
    assert decisions == [Stop()]
    assert decide(state, look, 1.1, LIMITS) == (state, [])
    finish = finish_of(state, seen(all_ended(STOPPED), stop=StopWish.AT_BOUNDARY))
    assert finish == Finish(state=RunState.STOPPED, exit_code=ExitCode.STOPPED, step=9)


def test_a_second_stop_ends_at_once_in_every_phase() -> None:
    for phase in Phase:
        if phase is not Phase.ENDED:
            finish = finish_of(State(phase=phase, since=0.0), Seen(stop=StopWish.AT_ONCE))
            assert finish.exit_code is ExitCode.STOPPED


def test_a_stop_before_the_first_world_ends_and_one_between_worlds_saves_what_is_in_memory_first() -> None:
    stop = StopWish.PREEMPTED
    assert finish_of(WAITING, seen([node("a")], stop=stop)).exit_code is ExitCode.PREEMPTED
    state, decisions = decide(AGAIN, seen([node("a"), node("b")], stop=stop), 1.0, LIMITS)
    assert decisions == [Seek()]
    _, [begin] = decide(state, seen([node("a"), node("b")], stop=stop, start_step=0), 1.1, LIMITS)
    assert isinstance(begin, Begin)
    assert decide(AGAIN, seen([], stop=stop), 1.0, LIMITS)[0].phase is Phase.WAITING
    assert finish_of(AGAIN, seen([], stop=stop), 10.0).state is RunState.STOPPED


@pytest.mark.parametrize("stop", [StopWish.NONE, StopWish.AT_ONCE])
def test_nothing_is_decided_after_the_end(stop: StopWish) -> None:
    state = State(phase=Phase.ENDED, since=0.0)
    assert decide(state, Seen(stop=stop), 9.0, LIMITS) == (state, [])


def test_ranks_that_end_apart_are_a_failure() -> None:
    look = seen(world("a", "b", r0=ended(0, DONE), **{f"r{rank}": ended(rank, STOPPED) for rank in (1, 2, 3)}))
    assert finish_of(TRAINING, look).state is RunState.FAILED


def test_a_run_that_is_done_early_says_why_each_reason_once() -> None:
    early = replace(DONE, reason="no better loss")
    look = seen(world("a", "b", r0=ended(0, DONE), **{f"r{rank}": ended(rank, early) for rank in (1, 2, 3)}))
    finish = finish_of(TRAINING, look)
    assert finish == Finish(state=RunState.DONE, exit_code=ExitCode.DONE, reason="no better loss", step=12)


def test_ranks_that_lost_their_store_leave_a_run_that_can_go_on() -> None:
    away = replace(STOPPED, reason="s3://pictures: HTTP 503 for 900 s")
    finish = finish_of(TRAINING, seen(all_ended(away)))
    assert finish == Finish(state=RunState.STOPPED, exit_code=ExitCode.PREEMPTED, reason=away.reason, step=9)


# preparing ahead

UNPREPARED = PreparerReport(
    pid=7, segments=3, expected=8, problem="0007.tar: is cut short", exit_code=int(ExitCode.BAD_INPUT)
)


def test_when_preparing_ahead_fails_ranks_stop_at_a_boundary_and_the_run_fails_with_its_reason() -> None:
    state, decisions = decide(TRAINING, seen(world("a", "b"), unprepared=UNPREPARED), 1.0, LIMITS)
    assert (state.phase, decisions) == (Phase.STOPPING, [Stop()])
    finish = finish_of(state, seen(all_ended(STOPPED), unprepared=UNPREPARED))
    assert (finish.state, finish.exit_code, finish.step) == (RunState.FAILED, ExitCode.BAD_INPUT, 9)
    assert finish.reason == "preparing ahead failed at segment 3 of 8: 0007.tar: is cut short"


def test_before_ranks_train_failed_preparing_ends_the_run_at_once() -> None:
    finish = finish_of(WAITING, seen([node("a")], unprepared=UNPREPARED, offered=offered("b")))
    assert (finish.exit_code, finish.step) == (ExitCode.BAD_INPUT, None)


def test_ranks_that_are_done_need_nothing_more_to_be_prepared() -> None:
    finish = finish_of(TRAINING, seen(all_ended(DONE), unprepared=UNPREPARED))
    assert finish == Finish(state=RunState.DONE, exit_code=ExitCode.DONE, step=12)


def test_a_store_that_preparing_lost_leaves_a_run_that_can_go_on() -> None:
    away = replace(UNPREPARED, problem="HTTP 503 for 900 s", exit_code=int(ExitCode.PREEMPTED))
    finish = finish_of(TRAINING, seen(all_ended(STOPPED), unprepared=away))
    assert (finish.state, finish.exit_code) == (RunState.STOPPED, ExitCode.PREEMPTED)


# how soon to look again


@pytest.mark.parametrize(
    ("state", "calm"),
    [
        (TRAINING, True),
        (replace(TRAINING, starting_since=0.0), True),
        (replace(TRAINING, signs_since=1.0), False),
        (replace(TRAINING, idle_since=1.0), False),
        (LEAVING, False),
        (ABORTING, False),
        (WAITING, False),
    ],
    ids=["training", "about to", "signs of a fault", "nodes could come in", "leaving", "aborting", "waiting"],
)
def test_it_is_calm_while_a_world_trains_and_nothing_is_about_to_change(state: State, calm: bool) -> None:
    assert is_calm(state) is calm
