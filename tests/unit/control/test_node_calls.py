"""The gang's calls to node actors: none is waited for, and none fails unseen."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from orchestrator.config.load import load_config
from orchestrator.config.resolve import WorldPlan
from orchestrator.control import gang as gang_module
from orchestrator.control.bell import Bell
from orchestrator.control.gang import UNHEARD, Gang
from orchestrator.control.group import ReadyNode
from orchestrator.control.jobs import Notice, RunHandle
from orchestrator.core.words import Word
from tests.fakes.ray_calls import FakeRay
from tests.fakes.seen_nodes import node as seen_node

TINY = Path(__file__).parents[3] / "configs" / "tiny.yaml"
PLAN = WorldPlan(
    world_size=2, micro_batch=1, accumulation=1, cpus_per_rank=1, prepare_cpus=1, snapshots="mirrored", vault_bytes=0,
    decisions=(),
)  # fmt: skip
GROUP: Any = None  # nobody looks into it


@pytest.fixture
def fake_ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setattr(gang_module, "ray", fake)
    return fake


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
def gang(fake_ray: FakeRay, bell: Bell) -> Gang:
    config = load_config(TINY, sets=["cluster.ranks_per_node=1", "elastic.heartbeat_timeout_s=0.05"]).config
    gang = Gang(RunHandle(path=Path("runs/a"), key="a"), config, bell)
    for name in ("a", "b"):
        gang.start_node(1, ReadyNode(GROUP, f"id-{name}", f"host-{name}"), "cpu", 1)
    gang.beat({})
    return gang


def answer(fake_ray: FakeRay, number: int, version: int = 1) -> None:
    report = seen_node("ab"[number]).report
    assert report is not None
    fake_ray.actors[number].newest("beat").end(replace(report, version=version))


def failure(method: str) -> RayTaskError:
    """As ray.get raises it: of the class of its cause, too."""
    cause = ValueError("no such device")
    return RayTaskError(f"NodeActor.{method}", "Traceback ...", cause, "ray", 1, "10.0.0.1").as_instanceof_cause()


def lost(gang: Gang) -> list[str]:
    return [node.lost for node in gang.beat({})]


def test_answers_are_kept_and_each_is_followed_by_the_next_beat(gang: Gang, fake_ray: FakeRay) -> None:
    answer(fake_ray, 0, version=7)
    first, second = gang.beat({"host-a": (notice := Notice(reason="it goes", until=9.0))})
    assert (first.report is not None, second.report) == (True, None)
    assert (first.notice, second.notice) == (notice, None)
    assert fake_ray.actors[0].newest("beat").arguments == (Word.GO_ON, 7)
    assert fake_ray.actors[1].count("beat") == 1  # the one under way


@pytest.mark.parametrize("method", ["start_ranks", "train", "abort", "kill_ranks", "beat"])
def test_a_node_on_which_a_call_fails_is_lost_with_the_reason(gang: Gang, fake_ray: FakeRay, method: str) -> None:
    for number in (0, 1):
        answer(fake_ray, number)
    names = [node.name for node in gang.beat({})]
    gang.begin(2, names, [[1], [1]], PLAN, None, 600.0, None)
    gang.abort(names, 2)
    gang.kill(names[1], [1], "it hangs")
    fake_ray.actors[1].newest(method).end(failure(method))
    well, ill = lost(gang)
    assert well == ""
    assert ill == f"node actor a:node-1-2 on host-b has failed: {method} raised ValueError: no such device"


def test_a_node_whose_actor_cannot_start_says_why(gang: Gang, fake_ray: FakeRay) -> None:
    died = ActorDiedError(RayTaskError("NodeActor.__init__", "Traceback ...\nOSError: disk full", OSError("disk full")))
    fake_ray.actors[0].newest("start_ranks").end(died)
    assert lost(gang) == ["node actor a:node-1-1 on host-a could not start: OSError: disk full", ""]


def test_a_node_actor_that_dies_is_lost_once_whatever_else_it_was_asked(gang: Gang, fake_ray: FakeRay) -> None:
    gang.say(Word.STOP)
    for call in fake_ray.actors[0].calls:
        call.end(ActorDiedError())
    first = lost(gang)
    assert first[0].startswith("node actor a:node-1-1 on host-a is gone: The actor died")
    told = fake_ray.actors[0].count("beat")
    gang.say(Word.GO_ON)
    assert lost(gang) == first
    assert fake_ray.actors[0].count("beat") == told  # it is not asked again


def test_silence_after_a_first_answer_loses_a_node_and_before_it_does_not(
    gang: Gang, fake_ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(gang_module.time, "monotonic", lambda: now)
    answer(fake_ray, 0)
    assert lost(gang) == ["", ""]
    now += 0.06
    silent, warming = lost(gang)
    assert silent == "node host-a has been silent for 0.1 s (elastic.heartbeat_timeout_s)"
    assert warming == ""


def test_patience_is_how_long_the_first_node_to_be_missed_may_still_be_silent(
    gang: Gang, fake_ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(gang_module.time, "monotonic", lambda: now)
    assert gang.patience_s == math.inf  # nobody has answered yet
    for number in (0, 1):
        answer(fake_ray, number)
        gang.beat({})
        now += 0.02
    assert gang.patience_s == pytest.approx(0.01)
    now += 0.02
    assert gang.patience_s == 0.0
    assert [bool(reason) for reason in lost(gang)] == [True, False]
    assert gang.patience_s == pytest.approx(0.01)  # of the other


def test_a_word_is_said_at_once_and_only_once(gang: Gang, fake_ray: FakeRay) -> None:
    gang.say(Word.LEAVE)
    gang.say(Word.LEAVE)
    for actor in fake_ray.actors:
        assert [call.arguments for call in actor.calls if call.method == "beat"] == [
            (Word.GO_ON, UNHEARD),
            (Word.LEAVE, UNHEARD),
        ]


@pytest.mark.parametrize("outcome", [None, RayTaskError("NodeActor.start_ranks", "", ValueError("bad"), "ray", 1, "")])
def test_the_bell_rings_when_a_call_is_over(gang: Gang, bell: Bell, fake_ray: FakeRay, outcome: Any) -> None:
    before = bell.version
    fake_ray.actors[0].newest("start_ranks").end(outcome)
    assert bell.version == before + 1
    gang.beat({})
    assert bell.version == before + 1  # what has been taken is forgotten


def test_every_rank_gets_its_job_and_every_node_the_next_one_as_buddy(gang: Gang, fake_ray: FakeRay) -> None:
    for number in (0, 1):
        answer(fake_ray, number)
    names = [node.name for node in gang.beat({})]
    gang.begin(2, names[::-1], [[11], [12]], PLAN, None, 600.0, 40)
    jobs = [fake_ray.actors[number].newest("train").arguments for number in (1, 0)]
    assert [pids for _, pids in jobs] == [[11], [12]]
    assert [job.world.rank for [job], _ in jobs] == [0, 1]
    assert {(job.store_host, job.leave_at, job.generation) for [job], _ in jobs} == {("host-b", 40, 2)}
    assert [job.buddy.host for [job], _ in jobs] == ["host-a", "host-b"]
