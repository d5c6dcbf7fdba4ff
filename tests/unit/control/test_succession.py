"""Of a run's controllers in one Ray only one has the name: an earlier one makes way, whatever has become of it."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.resolve import Facts
from orchestrator.control import controller as controller_module
from orchestrator.control import succession
from orchestrator.control.controller import Charge, start_controller
from orchestrator.control.jobs import RunHandle
from orchestrator.control.succession import make_way
from orchestrator.core.errors import LonghaulError
from orchestrator.tracking.journal import Journal
from orchestrator.tracking.rundir import RunDir
from tests.fakes.clock import FakeClock
from tests.fakes.ray_calls import FakeActor, FakeRay

FACTS = Facts(device="cpu", cpus_per_node=4, remote=False, sample_bytes=0, wandb_key=False)
TINY = Path(__file__).parents[3] / "configs" / "tiny.yaml"
NAME = "a:controller"


@pytest.fixture
def run(tmp_path: Path) -> RunHandle:
    run_dir = RunDir(tmp_path / "a")
    run_dir.create(lambda _folder: None)
    return RunHandle(path=run_dir.path, key="a")


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    for module in (controller_module, succession):
        monkeypatch.setattr(module, "ray", fake)
    return fake


def write_journal(run: RunHandle, *, ended: bool) -> None:
    journal = Journal.claim(RunDir(run.path).events, FakeClock(), charge="earlier")
    if ended:
        journal.append("stopped", exit_code=130, reason="")
    journal.close()


def charge_of(run: RunHandle, **fields: Any) -> Charge:
    return Charge(run=run, address="10.0.0.1:6379", facts=FACTS, about={}, after_generation=0, **fields)


def test_where_no_earlier_controller_is_nothing_is_ended(run: RunHandle, ray: FakeRay) -> None:
    assert not make_way(run)
    assert ray.killed == []


def test_a_controller_that_has_lost_its_lease_is_ended(run: RunHandle, ray: FakeRay) -> None:
    write_journal(run, ended=False)
    old = ray.named[NAME] = FakeActor()
    assert make_way(run)
    assert ray.killed == [old]


def test_a_controller_whose_run_has_ended_is_left_to_give_everything_back(
    run: RunHandle, ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_journal(run, ended=True)
    ray.named[NAME] = FakeActor()

    def sleep(_seconds: float) -> None:
        if ray.looks > 3:
            ray.named.clear()  # it has ended itself

    monkeypatch.setattr(succession.time, "sleep", sleep)
    assert make_way(run)
    assert ray.killed == []


def test_a_controller_that_does_not_end_with_its_run_is_ended(
    run: RunHandle, ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_journal(run, ended=True)
    monkeypatch.setattr(succession, "ENDS_WITHIN_S", 0.01)
    old = ray.named[NAME] = FakeActor()
    assert make_way(run)
    assert ray.killed == [old]


def test_where_ray_cannot_end_it_people_are_told_what_to_do(
    run: RunHandle, ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray.named[NAME], ray.cannot_kill = FakeActor(), True
    monkeypatch.setattr(succession, "GONE_WITHIN_S", 0.01)
    with pytest.raises(LonghaulError, match="Ray does not end it") as raised:
        make_way(run)
    assert NAME in raised.value.remedy


def test_a_new_controller_takes_the_place_of_one_that_is_frozen_and_of_all_that_it_has_claimed(
    run: RunHandle, ray: FakeRay
) -> None:
    for _ in range(2):
        write_journal(run, ended=False)
    old = ray.named[NAME] = FakeActor()
    start_controller(charge_of(run))
    assert ray.killed == [old]
    [charge] = ray.named[NAME].made_with
    assert charge.after_generation == 2


def test_of_two_commands_at_the_same_moment_one_is_told_of_the_other(
    run: RunHandle, ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller_module, "make_way", lambda _run: False)
    ray.named[NAME] = FakeActor()  # since then
    with pytest.raises(LonghaulError, match="has got a controller"):
        start_controller(charge_of(run))
