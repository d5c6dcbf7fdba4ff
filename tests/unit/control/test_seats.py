"""Seats with rank processes that can be killed: who takes which, what is heard of the dead, who comes after them."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.control.jobs import RankReport, RankState
from orchestrator.core.words import RunState, Word
from tests.fakes.rank_processes import TIMEOUT_S, Bench, bench_of

Reports = tuple[RankReport, ...]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Two seats, one spare."""
    with bench_of(tmp_path, 2, 1) as bench:
        yield bench


def all_free(reports: Reports) -> bool:
    return sum(one.is_free for one in reports) == 3


def seated(reports: Reports) -> list[int]:
    """Pids by seat."""
    return [one.pid for one in reports if one.local_rank is not None]


def trained(reports: Reports) -> bool:
    return [one.trained for one in reports if one.local_rank is not None] == [True, True]


def test_before_their_first_job_all_are_spares(bench: Bench) -> None:
    for report in bench.seats.report():
        assert (report.rank, report.local_rank, report.state, report.generation) == (None, None, RankState.READY, 0)


def test_survivors_keep_their_seats_and_a_spare_takes_the_empty_one(bench: Bench) -> None:
    bench.train(1, "step", "step")
    first, second = seated(bench.wait_for(trained))
    spare = bench.seats.report()[2].pid
    os.kill(first, signal.SIGKILL)
    dead = bench.wait_for(lambda reports: reports[0].state is RankState.DIED)[0]
    assert (dead.rank, dead.local_rank, dead.generation, dead.evidence) == (0, 0, 1, "")
    bench.seats.abort(1)
    told = bench.wait_for(all_free)
    assert [(one.pid, one.problem.collateral) for one in told if one.problem is not None] == [(second, True)]
    bench.train(2, "step", "step")
    reports = bench.wait_for(trained)
    assert seated(reports) == [spare, second]
    assert [(one.rank, one.generation, one.problem) for one in reports[:2]] == [(0, 2, None), (1, 2, None)]
    assert len(reports) == 3  # the dead are forgotten, and there is another spare


def test_a_rank_that_leaves_is_free_with_its_end(bench: Bench) -> None:
    bench.train(1, "step", "step")
    pids = seated(bench.wait_for(trained))
    bench.seats.renew(Word.LEAVE)
    reports = bench.wait_for(all_free)
    assert [one.end.state for one in reports if one.end is not None] == [RunState.RUNNING] * 2
    bench.seats.renew(Word.GO_ON)
    bench.train(2, "step", "step")
    assert seated(bench.wait_for(trained)) == pids


def test_a_controller_hears_at_once_that_jobs_have_come(bench: Bench) -> None:
    version = bench.bell.version
    bench.train(1, "step", "step")
    assert bench.bell.version > version


def test_jobs_of_a_generation_that_is_over_are_refused(bench: Bench) -> None:
    bench.train(3, "step", "step")
    bench.wait_for(trained)
    bench.seats.abort(5)
    bench.wait_for(all_free)
    for generation in (2, 3, 5):
        bench.train(generation, "step", "step")
        assert all_free(bench.seats.report())
    bench.train(6, "step", "step")
    bench.wait_for(trained)


def test_an_abort_of_an_earlier_generation_does_nothing(bench: Bench) -> None:
    bench.train(2, "step", "step")
    bench.wait_for(trained)
    bench.seats.abort(1)
    steps = [one.step for one in bench.seats.report()[:2]]
    bench.wait_for(lambda reports: all(one.step > step for one, step in zip(reports, steps, strict=False)))
    assert trained(bench.seats.report())


def test_a_problem_frees_the_rank_that_tells_it(bench: Bench) -> None:
    bench.train(1, "raise", "step")
    reports = bench.wait_for(lambda reports: reports[0].is_free and reports[0].problem)
    assert reports[0].state is RankState.RAISED
    assert reports[0].problem is not None
    assert not reports[0].problem.collateral


def test_killing_says_why_and_takes_the_frozen_too(bench: Bench) -> None:
    bench.train(1, "step", "step")
    pid, other = seated(bench.wait_for(trained))
    os.kill(pid, signal.SIGSTOP)
    [member] = [one for one in bench.seats.members if one.pid == pid]
    member.kill("did not get out in time")
    dead = bench.wait_for(lambda reports: reports[0].state is RankState.DIED)[0]
    assert dead.evidence == "did not get out in time"
    assert psutil.pid_exists(other)


def test_a_dead_spare_is_replaced(bench: Bench) -> None:
    spare = bench.seats.report()[0].pid
    os.kill(spare, signal.SIGKILL)
    reports = bench.wait_for(lambda reports: len(reports) == 4 and all_free(reports))
    assert [one.pid for one in reports if one.state is RankState.DIED] == [spare]


def test_a_job_for_one_who_has_just_died_is_reported_as_a_death_in_it(bench: Bench) -> None:
    """A controller hands out jobs by what it knew a moment ago."""
    pids = [one.pid for one in bench.seats.report()]
    for pid in pids[:2]:
        os.kill(pid, signal.SIGKILL)
    bench.wait_for(lambda reports: sum(one.state is RankState.DIED for one in reports) == 2)
    bench.train(1, "step", "step", pids=pids[:2])
    reports = bench.seats.report()
    assert [(one.rank, one.generation) for one in reports[:2]] == [(0, 1), (1, 1)]
    assert [one.state for one in reports[:2]] == [RankState.DIED] * 2


def test_who_gets_free_too_late_stands_by(tmp_path: Path) -> None:
    """A controller may begin with spares when there are enough of them."""
    with bench_of(tmp_path, 1, 2) as bench:
        bench.train(1, "hang")
        late = bench.wait_for(lambda reports: reports[0].trained)[0].pid
        bench.train(2, "step")
        seated, *others = bench.wait_for(lambda reports: reports[0].trained)
        assert (seated.generation, seated.local_rank) == (2, 0)
        assert [one.local_rank for one in others] == [None, None]
        assert late in [one.pid for one in others]


def test_news_are_carried_before_the_end_is_told(bench: Bench) -> None:
    bench.train(1, "tell", "tell")
    reports = bench.wait_for(lambda reports: all(one.end for one in reports[:2]))
    assert [one.end.step for one in reports if one.end is not None] == [5, 5]
    assert len(bench.news) == 10


def test_a_process_of_a_dead_rank_does_not_hide_its_death(bench: Bench) -> None:
    """It may hold the connection open."""
    bench.train(1, "fork", "step")
    pid = seated(bench.wait_for(trained))[0]
    child = psutil.Process(pid).children()[0]
    try:
        os.kill(pid, signal.SIGKILL)
        bench.wait_for(lambda reports: reports[0].state is RankState.DIED)
        assert child.is_running()
    finally:
        child.kill()


def test_all_end(tmp_path: Path) -> None:
    with bench_of(tmp_path, 2, 1) as bench:
        bench.train(1, "step", "hang")
        processes = [psutil.Process(one.pid) for one in bench.seats.report()]
        bench.seats.end()
        assert psutil.wait_procs(processes, timeout=TIMEOUT_S)[1] == []
    assert len(bench.wait_for(lambda reports: all(one.state is RankState.DIED for one in reports))) == 3
