"""Of a run's controllers in one Ray only one has the name: an earlier one makes way, whatever has become of it."""

import os
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from orchestrator.config.resolve import Facts
from orchestrator.control import controller as controller_module
from orchestrator.control import gang as gang_module
from orchestrator.control import group as group_module
from orchestrator.control import succession
from orchestrator.control.charge import Charge
from orchestrator.control.controller import Controller, start_controller
from orchestrator.control.jobs import RunHandle
from orchestrator.control.succession import is_replaced, make_way
from orchestrator.core.errors import LonghaulError, Superseded
from orchestrator.tracking.journal import Journal, read_events
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


class Cluster:
    """What a Ray keeps for a run: a node actor, a group and the scribe."""

    def __init__(self, ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
        self.groups = {"ab" * 18: {"name": "a:group-1", "state": "CREATED"}}
        for name in ("node-1-1", "scribe"):
            ray.named[f"a:{name}"] = FakeActor()
        monkeypatch.setattr(gang_module, "ray", ray)
        monkeypatch.setattr(gang_module, "list_named_actors", lambda all_namespaces: list_actors(ray))
        monkeypatch.setattr(group_module, "placement_group_table", lambda: self.groups)
        monkeypatch.setattr(group_module, "remove_placement_group", lambda group: self.groups.pop(group.id.hex()))


def list_actors(ray: FakeRay) -> list[dict[str, str]]:
    return [{"namespace": "longhaul", "name": name} for name in ray.named]


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


def test_every_charge_has_a_name_of_its_own(run: RunHandle) -> None:
    assert charge_of(run).name != charge_of(run).name


@pytest.mark.parametrize("ended", [True, False])
def test_a_controller_started_again_after_another_has_taken_over_gives_back_what_its_cluster_keeps(
    run: RunHandle, ray: FakeRay, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    cluster = Cluster(ray, monkeypatch)
    shutil.copyfile(TINY, RunDir(run.path).config)
    write_journal(run, ended=ended)
    said = list(read_events(RunDir(run.path).events))
    controller = Controller(charge_of(run))
    with nullcontext() if ended else pytest.raises(Superseded):
        controller.run()
    if not ended:
        controller.give_back()
    assert (ray.named, cluster.groups) == ({}, {})
    assert list(read_events(RunDir(run.path).events)) == said


@pytest.mark.parametrize(
    ("answer", "replaced"),
    [(os.getpid(), False), (os.getpid() + 1, True), (ActorDiedError(), True)],
    ids=["itself", "another", "dead"],
)
def test_who_has_the_name_is_asked_for_its_process(
    run: RunHandle, ray: FakeRay, monkeypatch: pytest.MonkeyPatch, answer: Any, replaced: bool
) -> None:
    ray.named[NAME] = FakeActor()

    def get(call: Any) -> Any:
        call.end(answer)
        return FakeRay.get(ray, call)

    monkeypatch.setattr(ray, "get", get)
    assert is_replaced(run) is replaced


def test_whoever_was_ended_for_another_is_replaced_before_that_is_there(run: RunHandle, ray: FakeRay) -> None:
    assert is_replaced(run)
