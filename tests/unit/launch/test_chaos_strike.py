"""Faults are struck at the right process at the right step, while a made-up run grows."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from launch.chaos.faults import Fault, Kind, parse_faults
from launch.chaos.find import find_writer
from launch.chaos.machine import Machine
from launch.chaos.strike import Striker
from launch.chaos.watch import Process, Watch
from tests.fakes.clock import FakeClock
from tests.fakes.run_dirs import WrittenRun, ranks_now


class Victims(Machine):
    """Remembers what is sent; `gone` are processes that are not there any more."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, signal.Signals]] = []
        self.gone: set[int] = set()
        self.actors: dict[str, int] = {}

    def send(self, process: Process, number: signal.Signals) -> None:
        if process.pid in self.gone:
            raise ProcessLookupError
        self.sent.append((process.pid, number))

    def find_actor(self, _host: str, log: Path) -> Process | None:
        pid = self.actors.get(log.name)
        return Process("", pid) if pid is not None else None


@pytest.fixture
def run(tmp_path: Path) -> Iterator[WrittenRun]:
    run = WrittenRun(tmp_path / "run", FakeClock())
    run.claim()
    yield run
    run.close()


def start(run: WrittenRun, *pids: int) -> None:
    """A world, its ranks seen at work."""
    begin_world(run, *pids)
    show(run, *pids)


def begin_world(run: WrittenRun, *pids: int) -> None:
    run.journal.append("started", ranks=[{"node": "host", "pid": pid} for pid in pids])


def show(run: WrittenRun, *pids: int) -> None:
    run.show([replace(rank, pid=pid) for rank, pid in zip(ranks_now(1, len(pids), 0), pids, strict=True)])


def strike(run: WrittenRun, faults: str | list[Fault]) -> tuple[Victims, Striker]:
    victims = Victims()
    return victims, Striker(
        victims, run.run_dir, parse_faults(faults) if isinstance(faults, str) else faults, run.clock
    )


def test_a_fault_is_struck_when_its_step_is_done_and_not_before(run: WrittenRun) -> None:
    victims, striker = strike(run, "kill rank 1 @ 20")
    start(run, 41, 42)
    run.train(range(19))
    striker.look()
    assert victims.sent == []
    run.train(range(19, 20))
    striker.look()
    assert victims.sent == [(42, signal.SIGKILL)]
    [struck] = striker.struck
    assert (struck.step, struck.t) == (20, run.clock.now())
    striker.look()
    assert len(victims.sent) == 1


def test_a_stopped_rank_is_left_standing(run: WrittenRun) -> None:
    victims, striker = strike(run, "stop rank 0 @ 2")
    start(run, 41, 42)
    run.train(range(2))
    striker.look()
    assert victims.sent == [(41, signal.SIGSTOP)]


def test_ranks_are_those_of_the_newest_world(run: WrittenRun) -> None:
    victims, striker = strike(run, "kill rank 1 @ 2")
    start(run, 41, 42)
    run.claim()
    start(run, 51, 52)
    run.train(range(2))
    striker.look()
    assert victims.sent == [(52, signal.SIGKILL)]


def test_a_process_that_is_being_replaced_is_struck_once_it_is_back(run: WrittenRun) -> None:
    victims, striker = strike(run, "kill rank 1 @ 2; kill scribe @ 2")
    victims.gone = {42}
    start(run, 41, 42)
    run.train(range(2))
    striker.look()
    assert striker.struck == []
    run.clock.sleep(3.0)
    run.claim()
    begin_world(run, 41, 43)  # it need not be at work for that
    striker.look()
    assert victims.sent == [(43, signal.SIGKILL)]
    [struck] = striker.struck
    assert struck.t - struck.due == 3.0
    victims.actors["scribe.log"] = 60
    striker.look()
    assert [one.fault.kind for one in striker.struck] == [Kind.KILL_RANK, Kind.KILL_SCRIBE]


def test_a_process_that_is_struck_already_is_not_struck_again_but_its_successor(run: WrittenRun) -> None:
    victims, striker = strike(run, "stop rank 0 @ 2; kill rank 0 @ 2")
    start(run, 41, 42)
    run.train(range(2))
    striker.look()
    assert victims.sent == [(41, signal.SIGSTOP)]
    run.claim()
    begin_world(run, 51, 42)
    striker.look()
    assert victims.sent == [(41, signal.SIGSTOP), (51, signal.SIGKILL)]


def test_a_rank_that_no_world_has_is_not_struck(run: WrittenRun) -> None:
    victims, striker = strike(run, "kill rank 2 @ 1")
    start(run, 41, 42)
    run.train(range(3))
    striker.look()
    assert (victims.sent, striker.struck) == ([], [])


def test_steps_that_are_done_again_do_not_strike_early_or_late(run: WrittenRun) -> None:
    victims, striker = strike(run, "kill rank 0 @ 5; kill rank 0 @ 6")
    start(run, 41, 42)
    run.train(range(5))
    striker.look()
    run.claim()
    start(run, 51, 52)
    run.train(range(3, 5))
    striker.look()
    assert victims.sent == [(41, signal.SIGKILL)]
    run.train(range(5, 6))
    striker.look()
    assert victims.sent[1:] == [(51, signal.SIGKILL)]


def test_gaps_are_counted_from_the_first_step_and_from_fault_to_fault(run: WrittenRun) -> None:
    gaps = [Fault(kind=Kind.KILL_RANK, number=number, gap_s=gap_s) for number, gap_s in ((0, 10.0), (1, 5.0))]
    victims, striker = strike(run, gaps)
    start(run, 41, 42)
    run.clock.sleep(100.0)
    striker.look()
    run.train(range(1))
    striker.look()
    for seconds, struck in ((9.9, 0), (0.2, 1), (4.8, 1), (0.3, 2)):
        run.clock.sleep(seconds)
        striker.look()
        assert len(victims.sent) == struck


def test_ranks_that_are_further_than_the_scribe_has_told_are_believed(run: WrittenRun) -> None:
    victims, striker = strike(run, "kill rank 1 @ 20")
    begin_world(run, 41, 42)
    run.show([replace(rank, pid=42) for rank in ranks_now(1, 2, step=20)])
    striker.look()
    assert victims.sent == [(42, signal.SIGKILL)]


def test_only_whole_rows_of_steps_move_the_watch(run: WrittenRun) -> None:
    watch = Watch(run.run_dir)
    watch.look()
    assert (watch.step, watch.rank(0)) == (0, None)
    run.train(range(3))
    run.evaluate(50, 1.0, 2.0)
    with (run.run_dir.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 70')
    watch.look()
    assert watch.step == 3


def test_the_writer_of_a_log_is_found_until_it_dies(tmp_path: Path) -> None:
    log = tmp_path / "scribe.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=output, stderr=output
        )
    try:
        assert find_writer(log) == process.pid
        assert Machine().find_actor("", log) == Process("", process.pid)
        Machine().send(Process("", process.pid), signal.SIGKILL)
        process.wait()
        assert find_writer(log) is None
        with pytest.raises(ProcessLookupError):
            Machine().send(Process("", process.pid), signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
