"""Who tries the patience of a watch, by table; and real ranks that are stopped, stuck, or wait for others."""

import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.config.running import ElasticSection
from orchestrator.control.jobs import RankState
from orchestrator.control.watch import Finding, Patience, Sight, Watch
from tests.fakes.rank_processes import Bench, bench_of
from tests.fakes.vault_nodes import wait_until

ELASTIC = ElasticSection(heartbeat_timeout_s=5.0)
LIMIT_S = 0.4
TIMEOUT_S = 10.0


def sight(progress: int, phase: str = "step", process: str = "S", generation: int = 1) -> Sight:
    return Sight(7, generation, process, phase, progress)


def looks(elastic: ElasticSection, *seen: tuple[float, Sight]) -> list[list[Finding]]:
    patience = Patience(elastic, blink_s=math.inf)
    return [patience.look([one], now) for now, one in seen]


def test_a_rank_is_late_after_a_few_of_its_longest_steps() -> None:
    """Of which the longest took 4 s."""
    early = [(0.0, sight(1)), (4.0, sight(2)), (5.0, sight(3)), (16.9, sight(3))]
    assert looks(ELASTIC, *early) == [[], [], [], []]
    assert looks(ELASTIC, *early, (17.5, sight(3)))[-1] == [Finding(7, False, 12.5)]


def test_a_rank_is_never_late_before_the_heartbeat_timeout() -> None:
    assert looks(ELASTIC, (0.0, sight(1)), (0.1, sight(2)), (5.0, sight(2)), (5.2, sight(2))) == [
        [], [], [], [Finding(7, False, pytest.approx(5.1))],
    ]  # fmt: skip


@pytest.mark.parametrize("phase", ["", "start", "data", "evaluate", "checkpoint"])
def test_only_a_step_can_be_late(phase: str) -> None:
    assert looks(ELASTIC, (0.0, sight(1)), (1.0, sight(2, phase)), (1000.0, sight(2, phase)))[-1] == []


def test_the_first_step_of_a_job_may_take_long() -> None:
    first = [(0.0, sight(1)), (900.0, sight(1))]
    assert looks(ELASTIC, *first)[-1] == []
    again = [(901.0, sight(2)), (902.0, sight(2, generation=2)), (1802.0, sight(2, generation=2))]
    assert looks(ELASTIC, *first, *again)[-1] == []


def test_a_limit_of_ones_own_holds_from_the_beginning_and_none_never() -> None:
    seen = [(0.0, sight(1)), (2.0, sight(1)), (3.5, sight(1))]
    assert looks(ELASTIC.model_copy(update={"step_timeout_s": 3.0}), *seen) == [[], [], [Finding(7, False, 3.5)]]
    assert looks(ELASTIC.model_copy(update={"step_timeout_s": None}), *seen, (1e6, sight(1)))[-1] == []


def test_a_stopped_rank_is_found_in_every_phase_unless_it_goes_on() -> None:
    stopped, going = sight(1, "data", "T"), sight(1, "data", "S")
    assert looks(ELASTIC, (0.0, going), (1.0, stopped), (5.9, stopped), (6.1, stopped))[2:] == [
        [], [Finding(7, True, pytest.approx(5.1))],
    ]  # fmt: skip
    assert looks(ELASTIC, (0.0, stopped), (4.0, going), (4.5, stopped), (9.0, stopped))[-1] == []


def test_what_nobody_saw_is_nobodys_fault() -> None:
    """The whole machine may have been asleep."""
    patience = Patience(ELASTIC, blink_s=1.0)
    for now, one in ((0.0, sight(1)), (0.5, sight(2)), (100.0, sight(2)), (100.5, sight(2))):
        assert patience.look([one], now) == []
    found = [patience.look([sight(2)], 100.5 + number) for number in range(8)]
    assert [bool(some) for some in found] == [False] * 5 + [True] * 3


def test_a_traced_rank_is_not_stopped() -> None:
    """By py-spy or a debugger."""
    assert looks(ELASTIC, (0.0, sight(1, "data", "t")), (100.0, sight(1, "data", "t")))[-1] == []


@pytest.fixture
def calm(tmp_path: Path) -> Iterator[Bench]:
    """Two ranks, and nobody who watches them."""
    with bench_of(tmp_path, 2, 0) as bench:
        yield bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Two watched ranks."""
    elastic = ElasticSection(heartbeat_timeout_s=LIMIT_S, step_timeout_s=LIMIT_S)
    with bench_of(tmp_path, 2, 0) as bench:
        Watch(bench.seats, elastic, tmp_path, "here", bench.bell).start()
        yield bench


def test_a_stopped_rank_is_killed(bench: Bench) -> None:
    bench.train(1, "step", "step")
    reports = bench.wait_for(lambda reports: all(one.trained for one in reports))
    os.kill(reports[0].pid, signal.SIGSTOP)
    dead, other = bench.wait_for(lambda reports: reports[0].state is RankState.DIED)[:2]
    assert dead.evidence.startswith("stopped for 0.")
    assert (other.state, other.evidence) == (RankState.TRAINING, "")


def test_a_stopped_spare_is_replaced(bench: Bench) -> None:
    spare = bench.seats.report()[0].pid
    os.kill(spare, signal.SIGSTOP)
    reports = bench.wait_for(lambda reports: sum(one.is_free for one in reports) == 2 < len(reports))
    assert [one.pid for one in reports if one.state is RankState.DIED] == [spare]


def test_a_helper_that_is_stopped_is_ended(calm: Bench, tmp_path: Path) -> None:
    helpers = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
    try:
        elastic = ElasticSection(heartbeat_timeout_s=LIMIT_S)
        stopped, other = helpers
        stopped.send_signal(signal.SIGSTOP)
        pids = [one.pid for one in helpers]
        Watch(calm.seats, elastic, tmp_path, "here", calm.bell, lambda: [*pids, 0]).start()
        assert stopped.wait(TIMEOUT_S) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        for helper in helpers:
            helper.kill()
            helper.wait()


def test_a_stuck_rank_is_killed_and_its_stacks_are_kept(bench: Bench, tmp_path: Path) -> None:
    bench.train(1, "step", "hang")
    dead = bench.wait_for(lambda reports: reports[1].state is RankState.DIED)[1]
    stacks = tmp_path / f"stacks-here-{dead.pid}.txt"
    assert "stuck in _hang (" in dead.evidence
    assert dead.evidence.endswith(f"stacks in {stacks.name}")
    assert "in _hang" in stacks.read_text()
    assert bench.seats.report()[0].state is RankState.TRAINING


def kill_soon(watch: Watch, pid: int) -> float:
    """How long whoever asks for it waits."""
    began = time.monotonic()
    watch.kill([pid], "not free in time")
    return time.monotonic() - began


def test_where_a_rank_is_that_is_killed_is_looked_at_before(calm: Bench, tmp_path: Path) -> None:
    calm.train(1, "step", "hang")
    pid = calm.wait_for(lambda reports: all(one.trained for one in reports))[1].pid
    assert kill_soon(Watch(calm.seats, ElasticSection(), tmp_path, "here", calm.bell), pid) < 0.1
    dead = calm.wait_for(lambda reports: reports[1].state is RankState.DIED)[1]
    stacks = tmp_path / f"stacks-here-{pid}.txt"
    assert dead.evidence.startswith("not free in time: stuck in _hang (")
    assert dead.evidence.endswith(f"stacks in {stacks.name}")
    wait_until(lambda: stacks.exists() and "in _hang" in stacks.read_text())


def test_a_frozen_rank_is_killed_although_it_shows_nothing(calm: Bench, tmp_path: Path) -> None:
    calm.train(1, "step", "step")
    pid = calm.wait_for(lambda reports: all(one.trained for one in reports))[1].pid
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    kill_soon(Watch(calm.seats, ElasticSection(), tmp_path, "here", calm.bell), pid)
    dead = calm.wait_for(lambda reports: reports[1].state is RankState.DIED)[1]
    assert time.monotonic() - began < 1.0
    assert dead.evidence == "not free in time: shows no stacks"


def test_whoever_gets_free_while_it_is_looked_at_lives(calm: Bench, tmp_path: Path) -> None:
    calm.train(1, "step", "step")
    pid = calm.wait_for(lambda reports: all(one.trained for one in reports))[1].pid
    calm.seats.abort(1)
    kill_soon(Watch(calm.seats, ElasticSection(), tmp_path, "here", calm.bell), pid)
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "kill"])
    report = calm.seats.report()[1]
    assert (report.pid, report.is_free, report.state) == (pid, True, RankState.RAISED)


def test_a_rank_that_waits_for_others_is_left_alone(bench: Bench, tmp_path: Path) -> None:
    bench.train(1, "step", "wait")
    waiting = bench.wait_for(lambda reports: reports[1].evidence)[1]
    assert waiting.state is RankState.TRAINING
    assert waiting.evidence.startswith("waits for other ranks for 0.")
    assert not list(tmp_path.glob("stacks-*"))
