"""The controller's decisions, one iteration at a time."""

from dataclasses import replace

import pytest

from orchestrator.control.jobs import NodeReport, PreparerReport, Problem, RankEnd, RankReport, RankState
from orchestrator.control.policy import (
    Begin,
    Finish,
    Limits,
    Phase,
    Restart,
    Say,
    Seen,
    StartNodes,
    State,
    StopWish,
    decide,
)
from orchestrator.core.words import ExitCode, RunState, Word

LIMITS = Limits(min_nodes=1, max_nodes=2, ranks_per_node=2, restart_budget=2, start_timeout_s=30.0)
WAITING = State(phase=Phase.WAITING, since=0.0)
WARMING = State(phase=Phase.WARMING, since=0.0)
RUNNING = State(phase=Phase.RUNNING, since=0.0)


def rank(state: RankState, **fields: object) -> RankReport:
    return RankReport(rank=0, local_rank=0, pid=100, state=state, **fields)  # type: ignore[arg-type]


def problem(**fields: object) -> Problem:
    plain = Problem(
        rank=1, node="10.0.0.1", step=7, kind="ValueError", message="bad", traceback="", t=5.0, collateral=False
    )
    return replace(plain, **fields)


def seen(*ranks: RankReport, nodes: int = 1, **fields: object) -> Seen:
    report = NodeReport(node_id="a", host="10.0.0.1", identity="h", pid=1, ranks=ranks, store=("10.0.0.1", 1))
    return Seen(nodes=[report], expected_nodes=nodes, **fields)  # type: ignore[arg-type]


def test_all_nodes_there_starts_at_once() -> None:
    state, decisions = decide(WAITING, Seen(ready_nodes=2), 0.1, LIMITS)
    assert (state.phase, decisions) == (Phase.WARMING, [StartNodes()])


def test_the_fewest_nodes_wait_a_moment_for_more() -> None:
    assert decide(WAITING, Seen(ready_nodes=1), 0.5, LIMITS) == (WAITING, [])
    assert decide(WAITING, Seen(ready_nodes=1), 1.0, LIMITS)[1] == [StartNodes()]


def test_too_few_nodes_wait_until_the_time_out_and_say_why() -> None:
    assert decide(WAITING, Seen(), 29.0, LIMITS) == (WAITING, [])
    assert decide(WAITING, Seen(), 1e6, replace(LIMITS, start_timeout_s=None)) == (WAITING, [])
    _, [finish] = decide(WAITING, Seen(why_waiting="h1 has 1 CPU"), 31.0, LIMITS)
    assert isinstance(finish, Finish)
    assert finish.state is RunState.FAILED
    assert "h1 has 1 CPU" in finish.reason


def test_jobs_are_given_when_every_rank_is_warm() -> None:
    one_warm = seen(rank(RankState.READY), rank(RankState.WARMING))
    assert decide(WARMING, one_warm, 1.0, LIMITS) == (WARMING, [])
    all_warm = seen(rank(RankState.READY), rank(RankState.READY))
    assert decide(WARMING, replace(all_warm, expected_nodes=2), 1.0, LIMITS) == (WARMING, [])
    state, decisions = decide(WARMING, all_warm, 1.0, LIMITS)
    assert (state.phase, decisions) == (Phase.RUNNING, [Begin()])


def test_a_stop_is_said_once_and_ends_when_the_ranks_have() -> None:
    training = seen(rank(RankState.TRAINING), rank(RankState.TRAINING), stop=StopWish.AT_BOUNDARY)
    state, decisions = decide(RUNNING, training, 1.0, LIMITS)
    assert decisions == [Say(Word.STOP)]
    assert decide(state, training, 1.1, LIMITS) == (state, [])
    end = RankEnd(state=RunState.STOPPED, step=9)
    ended = seen(rank(RankState.ENDED, end=end), rank(RankState.ENDED, end=end), stop=StopWish.AT_BOUNDARY)
    _, [finish] = decide(state, ended, 1.2, LIMITS)
    assert finish == Finish(state=RunState.STOPPED, exit_code=ExitCode.STOPPED, step=9)


def test_a_second_stop_ends_at_once_in_every_phase() -> None:
    for state in (WAITING, WARMING, RUNNING):
        after, [finish] = decide(state, Seen(stop=StopWish.AT_ONCE), 1.0, LIMITS)
        assert after.phase is Phase.ENDED
        assert isinstance(finish, Finish)
        assert finish.exit_code is ExitCode.STOPPED


def test_an_exception_of_a_rank_ends_the_run_with_its_reason() -> None:
    echo = problem(rank=0, t=4.0, collateral=True, kind="RuntimeError")
    _, [finish] = decide(
        RUNNING, seen(rank(RankState.RAISED, problem=echo), rank(RankState.RAISED, problem=problem())), 1.0, LIMITS
    )
    assert isinstance(finish, Finish)
    assert (finish.state, finish.exit_code, finish.step) == (RunState.FAILED, ExitCode.FAILED, 7)
    assert finish.reason.startswith("rank 1 on 10.0.0.1 at step 7: ValueError: bad")


def test_one_rank_with_a_cause_is_given_company_for_a_moment() -> None:
    alone = seen(rank(RankState.RAISED, problem=problem()), rank(RankState.TRAINING))
    state, decisions = decide(RUNNING, alone, 1.0, LIMITS)
    assert decisions == []
    _, [finish] = decide(state, alone, 2.0, LIMITS)
    assert isinstance(finish, Finish)
    assert finish.reason.startswith("rank 1 on")
    both = seen(rank(RankState.RAISED, problem=problem()), rank(RankState.RAISED, problem=problem(rank=0)))
    _, [finish] = decide(state, both, 1.1, LIMITS)
    assert isinstance(finish, Finish)
    assert finish.reason.startswith("rank 0, 1 on")


def test_a_dead_process_restarts_until_the_budget_is_spent() -> None:
    state, dead = RUNNING, seen(rank(RankState.DIED), rank(RankState.TRAINING))
    for failures in (1, 2):
        state, [decision] = decide(replace(state, phase=Phase.RUNNING), dead, 1.0, LIMITS)
        assert isinstance(decision, Restart)
        assert (state.phase, state.failures) == (Phase.WAITING, failures)
    _, [finish] = decide(replace(state, phase=Phase.RUNNING), dead, 1.0, LIMITS)
    assert isinstance(finish, Finish)
    assert "restart_budget=2" in finish.reason


def test_a_dead_process_wins_over_echoes_of_it() -> None:
    echo = rank(RankState.RAISED, problem=problem(collateral=True))
    _, [decision] = decide(RUNNING, seen(echo, rank(RankState.DIED)), 1.0, LIMITS)
    assert isinstance(decision, Restart)


def test_echoes_alone_are_given_time_to_find_their_cause() -> None:
    echoes = seen(rank(RankState.RAISED, problem=problem(collateral=True)), rank(RankState.TRAINING))
    state, decisions = decide(RUNNING, echoes, 1.0, LIMITS)
    assert decisions == []
    state, decisions = decide(state, echoes, 2.9, LIMITS)
    assert decisions == []
    _, [decision] = decide(state, echoes, 3.1, LIMITS)
    assert isinstance(decision, Restart)


def test_a_lost_node_restarts() -> None:
    _, [decision] = decide(RUNNING, Seen(lost=["node h2 silent"]), 1.0, LIMITS)
    assert decision == Restart("node h2 silent")


def test_ranks_that_end_apart_are_a_failure() -> None:
    ends = [RankEnd(state=RunState.DONE, step=12), RankEnd(state=RunState.STOPPED, step=11)]
    _, [finish] = decide(RUNNING, seen(*(rank(RankState.ENDED, end=end) for end in ends)), 1.0, LIMITS)
    assert isinstance(finish, Finish)
    assert finish.state is RunState.FAILED


@pytest.mark.parametrize("stop", [StopWish.NONE, StopWish.AT_ONCE])
def test_nothing_is_decided_after_the_end(stop: StopWish) -> None:
    state = State(phase=Phase.ENDED, since=0.0)
    assert decide(state, Seen(stop=stop), 9.0, LIMITS) == (state, [])


def test_a_preempted_run_stops_like_another_but_says_that_it_can_go_on_elsewhere() -> None:
    training = seen(rank(RankState.TRAINING), stop=StopWish.PREEMPTED)
    state, decisions = decide(RUNNING, training, 1.0, LIMITS)
    assert decisions == [Say(Word.STOP)]
    end = RankEnd(state=RunState.STOPPED, step=9)
    _, [finish] = decide(state, seen(rank(RankState.ENDED, end=end), stop=StopWish.PREEMPTED), 1.2, LIMITS)
    assert finish == Finish(state=RunState.STOPPED, exit_code=ExitCode.PREEMPTED, step=9)
    for earlier in (WAITING, WARMING):
        _, [finish] = decide(earlier, seen(stop=StopWish.PREEMPTED), 1.0, LIMITS)
        assert isinstance(finish, Finish)
        assert finish.exit_code is ExitCode.PREEMPTED


def test_ranks_that_lost_their_store_leave_a_run_that_can_go_on() -> None:
    """They have all stopped at one step; those that know why say it, each reason once."""
    reason = "s3://pictures: HTTP 503 for 900 s"
    ends = [RankEnd(state=RunState.STOPPED, step=9, reason=words) for words in ("", reason, reason)]
    _, [finish] = decide(RUNNING, seen(*(rank(RankState.ENDED, end=end) for end in ends)), 1.0, LIMITS)
    assert finish == Finish(state=RunState.STOPPED, exit_code=ExitCode.PREEMPTED, reason=reason, step=9)


def test_a_store_that_is_lost_between_steps_does_not_fail_the_run() -> None:
    told = problem(kind="StoreDown", message="s3://pictures: HTTP 503", exit_code=int(ExitCode.PREEMPTED))
    raised = [rank(RankState.RAISED, problem=told), rank(RankState.RAISED, problem=problem(collateral=True, t=6.0))]
    _, [finish] = decide(RUNNING, seen(*raised), 1.0, LIMITS)
    assert isinstance(finish, Finish)
    assert (finish.state, finish.exit_code) == (RunState.STOPPED, ExitCode.PREEMPTED)
    assert "HTTP 503" in finish.reason


def test_who_is_to_blame_is_told_with_the_first_one_first() -> None:
    raised = [
        rank(RankState.RAISED, problem=problem(rank=0, t=4.0, collateral=True)),
        rank(RankState.RAISED, problem=problem(rank=1, t=6.0)),
        rank(RankState.RAISED, problem=problem(rank=2, t=5.0)),
    ]
    _, [finish] = decide(RUNNING, seen(*raised), 1.0, LIMITS)
    assert isinstance(finish, Finish)
    assert finish.culprits == (2, 1)
    died = seen(replace(rank(RankState.DIED), rank=3), rank(RankState.TRAINING))
    _, [restart] = decide(RUNNING, died, 1.0, LIMITS)
    assert isinstance(restart, Restart)
    assert restart.culprits == (3,)
    _, [failed] = decide(RUNNING, died, 1.0, replace(LIMITS, restart_budget=0))
    assert isinstance(failed, Finish)
    assert failed.culprits == (3,)


UNPREPARED = PreparerReport(
    pid=7, segments=3, expected=8, problem="0007.tar: is cut short", exit_code=int(ExitCode.BAD_INPUT)
)


def test_when_preparing_ahead_fails_ranks_stop_at_a_boundary_and_the_run_fails_with_its_reason() -> None:
    training = seen(rank(RankState.TRAINING), unprepared=UNPREPARED)
    state, decisions = decide(RUNNING, training, 1.0, LIMITS)
    assert (state.phase, decisions) == (Phase.STOPPING, [Say(Word.STOP)])
    assert decide(state, training, 1.1, LIMITS) == (state, [])
    end = RankEnd(state=RunState.STOPPED, step=9)
    _, [finish] = decide(state, seen(rank(RankState.ENDED, end=end), unprepared=UNPREPARED), 1.2, LIMITS)
    assert isinstance(finish, Finish)
    assert (finish.state, finish.exit_code, finish.step) == (RunState.FAILED, ExitCode.BAD_INPUT, 9)
    assert finish.reason == "preparing ahead failed at segment 3 of 8: 0007.tar: is cut short"


@pytest.mark.parametrize("state", [WAITING, WARMING])
def test_before_ranks_train_failed_preparing_ends_the_run_at_once(state: State) -> None:
    _, [finish] = decide(state, seen(rank(RankState.READY), unprepared=UNPREPARED, ready_nodes=2), 1.0, LIMITS)
    assert isinstance(finish, Finish)
    assert (finish.exit_code, finish.step) == (ExitCode.BAD_INPUT, None)


def test_ranks_that_are_done_need_nothing_more_to_be_prepared() -> None:
    end = RankEnd(state=RunState.DONE, step=12)
    _, [finish] = decide(RUNNING, seen(rank(RankState.ENDED, end=end), unprepared=UNPREPARED), 1.0, LIMITS)
    assert finish == Finish(state=RunState.DONE, exit_code=ExitCode.DONE, step=12)


def test_a_store_that_preparing_lost_leaves_a_run_that_can_go_on() -> None:
    away = replace(UNPREPARED, problem="HTTP 503 for 900 s", exit_code=int(ExitCode.PREEMPTED))
    end = RankEnd(state=RunState.STOPPED, step=9)
    _, [finish] = decide(RUNNING, seen(rank(RankState.ENDED, end=end), unprepared=away), 1.0, LIMITS)
    assert isinstance(finish, Finish)
    assert (finish.state, finish.exit_code) == (RunState.STOPPED, ExitCode.PREEMPTED)


def test_a_run_that_is_done_early_says_why() -> None:
    end = RankEnd(state=RunState.DONE, step=12, reason="stopped early: no better loss")
    ended = seen(rank(RankState.ENDED, end=end), rank(RankState.ENDED, end=end))
    _, [finish] = decide(RUNNING, ended, 1.0, LIMITS)
    why = "stopped early: no better loss"
    assert finish == Finish(state=RunState.DONE, exit_code=ExitCode.DONE, reason=why, step=12)


def test_ranks_that_find_a_checkpoint_damaged_start_again_from_another_until_the_budget_is_spent() -> None:
    damaged = problem(kind="CheckpointDamaged", message="s3://kept: bytes differ")
    raised = seen(
        rank(RankState.RAISED, problem=damaged), rank(RankState.RAISED, problem=problem(collateral=True, t=6.0))
    )
    state, [restart] = decide(RUNNING, raised, 1.0, LIMITS)
    assert isinstance(restart, Restart)
    assert "CheckpointDamaged" in restart.reason
    assert state.failures == 1
    mixed = seen(rank(RankState.RAISED, problem=damaged), rank(RankState.RAISED, problem=problem()))
    _, [finish] = decide(RUNNING, mixed, 1.0, LIMITS)
    assert isinstance(finish, Finish)
