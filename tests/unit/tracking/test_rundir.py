import os
import signal
import subprocess
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.errors import BadInput
from orchestrator.core.words import ExitCode, RunState
from orchestrator.storage.publish import publish_json
from orchestrator.tracking.journal import Journal
from orchestrator.tracking.lease import Lease, host_identity, read_lease, time_of_birth, write_lease
from orchestrator.tracking.rundir import RunDir
from tests.fakes.clock import FakeClock


def write_nothing(folder: Path) -> None: ...


def write_config(folder: Path) -> None:
    (folder / "config.yaml").write_bytes(b"a: 1\n")


def test_a_run_directory_that_cannot_be_filled_is_not_there(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        write_config(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        RunDir(tmp_path / "one").create(fail)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_run_directory_is_refused_with_the_way_out(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "one")
    run.create(write_config)
    with pytest.raises(BadInput, match="longhaul resume one"):
        run.create(write_nothing)
    assert run.config.read_bytes() == b"a: 1\n"


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([], RunState.PENDING),
        (["warming"], RunState.PENDING),
        (["started"], RunState.RUNNING),
        (["started", "checkpoint"], RunState.RUNNING),
        (["started", "restarting"], RunState.PENDING),
        (["started", "fault"], RunState.PENDING),
        (["started", "stopping", "fault", "started"], RunState.RUNNING),
        (["started", "leaving", "left"], RunState.PENDING),
        (["started", "stopping"], RunState.STOPPING),
        (["started", "stopping", "stopped"], RunState.STOPPED),
        (["started", "failed"], RunState.FAILED),
        (["started", "done"], RunState.DONE),
    ],
)
def test_the_state_follows_from_the_journal(tmp_path: Path, events: list[str], state: RunState) -> None:
    run = RunDir(tmp_path / "one")
    run.create(write_nothing)
    with closing(Journal.claim(run.events, FakeClock())) as journal:
        for event in events:
            journal.append(event)
    assert run.view().state is state


def test_the_end_is_told_with_its_reason(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "one")
    run.create(write_nothing)
    with closing(Journal.claim(run.events, FakeClock())) as journal:
        journal.append("failed", exit_code=1, reason="rank 1: bad", step=7)
    view = run.view()
    assert (view.exit_code, view.reason, view.step, view.generation) == (ExitCode.FAILED, "rank 1: bad", 7, 1)


def lease(**fields: Any) -> Lease:
    """That of a controller that died at t=1000 on this host, and of one rank that did, too."""
    dead = [(os.getpid(), 1.0), (os.getpid(), 2.0)]  # the pids live on, as other processes
    plain = {"generation": 1, "t": 1_000.0, "lease_s": 15.0, "address": "a", "host": host_identity()}
    return Lease(**plain | {"members": dead, "all_here": True} | fields)


def test_a_lease_holds_while_its_process_lives(tmp_path: Path) -> None:
    clock = FakeClock()
    write_lease(
        tmp_path / "lease.json", generation=1, lease_s=15.0, address="a", clock=clock, pids=[2**22 + 1], all_here=True
    )
    read = read_lease(tmp_path / "lease.json")
    assert read is not None
    assert len(read.members) == 1  # there is no process 2**22 + 1
    clock.time += 1_000.0
    assert not read.lapsed(clock)  # same host, and this process lives: a slow disk proves nothing


def test_the_lease_of_a_frozen_process_holds_until_its_time_is_over() -> None:
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            held = lease(members=[(process.pid, time_of_birth(process.pid))])
            assert not held.lapsed(FakeClock(1_019.0))
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            assert not held.lapsed(FakeClock(1_017.0))
            assert held.lapsed(FakeClock(1_019.0))
        finally:
            process.kill()


def test_when_every_process_on_this_host_is_dead_the_lease_has_lapsed_at_once() -> None:
    assert lease().lapsed(FakeClock(1_000.0))


def test_while_a_rank_lives_a_dead_controller_may_be_replaced_until_its_time_is_over() -> None:
    born = time_of_birth(os.getpid())
    held = lease(members=[(os.getpid(), 1.0), (os.getpid(), born)])
    assert not held.lapsed(FakeClock(1_014.0))
    assert not held.lapsed(FakeClock(1_017.0))
    assert held.lapsed(FakeClock(1_019.0))


@pytest.mark.parametrize("fields", [{"host": "elsewhere"}, {"all_here": False}])
def test_where_pids_say_nothing_the_lease_has_to_run_out(fields: dict[str, Any]) -> None:
    assert not lease(**fields).lapsed(FakeClock(1_014.0))
    assert lease(**fields).lapsed(FakeClock(1_019.0))


def test_nodes_that_are_to_go_are_found_and_forgotten(tmp_path: Path) -> None:
    run, clock = RunDir(tmp_path), FakeClock(100.0)
    assert run.drained_nodes() == {}
    run.ask_to_drain("10.0.0.2", clock, grace_s=30.0)
    run.ask_to_drain("rack/7", clock, grace_s=60.0)
    assert run.drained_nodes() == {"10.0.0.2": 130.0, "rack/7": 160.0}
    run.forget_requests()
    assert run.drained_nodes() == {}


def test_a_stop_request_is_found_and_forgotten(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "one")
    run.create(write_nothing)
    assert run.asked_to_stop() is None
    run.ask_to_stop(FakeClock(), at_once=True)
    request = run.asked_to_stop()
    assert request is not None
    assert request["at_once"] is True
    run.forget_requests()
    assert run.asked_to_stop() is None


def test_a_run_is_not_lost_between_a_claim_and_its_lease(tmp_path: Path) -> None:
    run, clock = RunDir(tmp_path / "one"), FakeClock()
    run.create(write_nothing)
    publish_json(run.lease, {"format": 1, **asdict(lease())})
    for _ in range(2):
        Journal.claim(run.events, clock).close()
    assert not run.view().lost(clock)
    clock.time += 16.0
    assert run.view().lost(clock)
