import os
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import pytest

from orchestrator.core.errors import BadInput
from orchestrator.core.words import ExitCode, RunState
from orchestrator.storage.publish import publish_json
from orchestrator.tracking.journal import Journal
from orchestrator.tracking.lease import Lease, host_identity, read_lease, write_lease
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


def test_a_lease_holds_while_its_process_lives(tmp_path: Path) -> None:
    clock = FakeClock()
    write_lease(tmp_path / "lease.json", generation=1, lease_s=15.0, address="a", clock=clock)
    lease = read_lease(tmp_path / "lease.json")
    assert lease is not None
    clock.time += 1_000.0
    assert not lease.lapsed(clock)  # same host, and this process lives: a slow disk proves nothing


def test_a_dead_process_on_this_host_frees_its_lease_at_once() -> None:
    lease = Lease(generation=1, t=1_000.0, lease_s=15.0, host=host_identity(), pid=os.getpid(), born=1.0, address="a")
    assert lease.lapsed(FakeClock(1_000.0))


def test_a_lease_of_another_host_has_to_run_out() -> None:
    lease = Lease(generation=1, t=1_000.0, lease_s=15.0, host="elsewhere", pid=1, born=1.0, address="a")
    assert not lease.lapsed(FakeClock(1_014.0))
    assert lease.lapsed(FakeClock(1_016.0))


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
    dead = Lease(generation=1, t=900.0, lease_s=15.0, host=host_identity(), pid=os.getpid(), born=1.0, address="a")
    publish_json(run.lease, {"format": 1, **asdict(dead)})
    for _ in range(2):
        Journal.claim(run.events, clock).close()
    assert not run.view().lost(clock)
    clock.time += 16.0
    assert run.view().lost(clock)
