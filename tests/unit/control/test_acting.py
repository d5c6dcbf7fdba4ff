"""What the policy decides, carried out: the journal says it before anything is moved."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import GetTimeoutError

from orchestrator.config.load import load_config
from orchestrator.config.resolve import Facts
from orchestrator.control import acting as acting_module
from orchestrator.control.acting import Acting, Tools
from orchestrator.control.bell import Bell
from orchestrator.control.blame import BadNode, Fault, Raised
from orchestrator.control.decisions import (
    Avoid,
    Begin,
    Break,
    BurySpare,
    Decision,
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
from orchestrator.control.group import Look, ReadyNode
from orchestrator.control.jobs import NodeReport
from orchestrator.control.membership import Leaving
from orchestrator.control.start import Bound, Start
from orchestrator.core.drill import Drill
from orchestrator.core.errors import Superseded
from orchestrator.core.news import TroubleNews
from orchestrator.core.words import ExitCode, RunState, Word
from orchestrator.tracking.journal import Event, Journal, read_events
from tests.fakes.clock import FakeClock
from tests.fakes.seen_nodes import node

CONFIG = load_config(Path(__file__).parents[3] / "configs" / "tiny.yaml").config
FACTS = Facts(device="cpu", cpus_per_node=4, remote=False, sample_bytes=0, wandb_key=False)
FAULT = Fault(
    kind="raised", reason="rank 1 raised\nmore", step=9, culprits=(1,), hosts=("host-a",), raised=Raised("E", 1, 9)
)
GROUP: Any = None
Move = tuple[str, tuple[Any, ...]]


@dataclass
class Mover:
    """Stands for gang, groups and search: writes down what it is told, and how many events the journal had then."""

    events: Callable[[], int]
    moves: list[Move] = field(default_factory=list)
    known: list[int] = field(default_factory=list)  # events, at each move
    node_actors: tuple[str, ...] = ()
    look: Look = field(default_factory=lambda: Look(ready=(ReadyNode(GROUP, "id-a", "host-a"),)))
    found: Start = field(default_factory=lambda: Start(None))

    @property
    def reports(self) -> list[NodeReport]:
        return [self.report_of(name) for name in "ab"]

    def report_of(self, name: str) -> NodeReport:
        report = node(name).report
        assert report is not None
        return report

    def take(self) -> Start:
        return self.found

    def __getattr__(self, method: str) -> Callable[..., str]:
        def move(*arguments: Any) -> str:
            self.moves.append((method, arguments))
            self.known.append(self.events())
            return f"id of {arguments[0]}" if arguments else ""

        return move


@dataclass(frozen=True)
class FakeScribe:
    """Its methods are Ray's: each has a `remote`."""

    told: list[Move] = field(default_factory=list)

    def __getattr__(self, method: str) -> Any:
        @dataclass(frozen=True)
        class Method:
            told: list[Move]

            def remote(self, *arguments: Any) -> str:
                self.told.append((method, arguments))
                return method

        return Method(self.told)


@dataclass
class Stage:
    acting: Acting
    mover: Mover
    scribe: FakeScribe
    folder: Path

    @property
    def events(self) -> list[Event]:
        return list(read_events(self.folder))

    def said(self) -> list[str]:
        return [event["event"] for event in self.events if event["event"] != "claimed"]


def set_up(folder: Path, **fields: Any) -> Stage:
    clock, scribe = FakeClock(), FakeScribe()
    mover = Mover(lambda: len(list(read_events(folder))))
    tools = Tools(Journal.claim(folder, clock), mover, mover, mover, scribe, Bell())  # type: ignore[arg-type]
    return Stage(Acting(CONFIG, FACTS, Drill(), clock, tools, **fields), mover, scribe, folder)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    stage = set_up(tmp_path, world=("a", "b"), generation=1)
    monkeypatch.setattr(acting_module.ray, "get", lambda _told, timeout: None)
    monkeypatch.setattr(acting_module.ray, "kill", lambda _scribe: None)
    yield stage
    stage.acting.journal.close()


@pytest.mark.parametrize(
    ("decision", "event", "moves"),
    [
        (StartNodes(("id-a",)), "warming", ["start_node"]),
        (GiveBack(20.0), "gave_back", []),
        (Drop("a", "host-a", "silent"), "node_lost", ["drop", "give_back"]),
        (Release("a", "host-a", "it goes"), "node_released", ["release", "give_back"]),
        (Avoid(BadNode("host-a", 1_060.0, ("died",) * 3)), "node_avoided", []),
        (BurySpare("host-a", 7, "died"), "spare_died", []),
        (Break(FAULT), "fault", ["say", "abort"]),
        (Kill("a", "host-a", (7,)), "ranks_killed", ["kill"]),
        (Freed((7,), ("stuck",)), "freed", []),
        (Leave(Leaving("more nodes are there", ("host-c",))), "leaving", ["say"]),
        (Left(9, None, ""), "left", ["say"]),
        (Begin(("a", "b"), "fault"), "started", ["say", "begin"]),
        (Stop(), "stopping", ["say"]),
        (Finish(state=RunState.DONE, exit_code=ExitCode.DONE, step=12), "done", ["end", "end"]),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str | list) else None,
)
def test_a_decision_is_on_disk_before_anything_is_moved(
    stage: Stage, decision: Decision, event: str, moves: list[str]
) -> None:
    stage.acting.act(decision)
    assert stage.said() == [event]
    assert [method for method, _ in stage.mover.moves] == moves
    assert set(stage.mover.known) <= {len(stage.events)}


@pytest.mark.parametrize(
    "decision",
    [
        Stop(),
        Drop("a", "host-a", "silent"),
        Break(FAULT),
        Begin(("a",), "fault"),
        Finish(state=RunState.STOPPED, exit_code=ExitCode.STOPPED),
    ],
)
def test_a_controller_that_was_superseded_moves_nothing(stage: Stage, decision: Decision, tmp_path: Path) -> None:
    """Nor does it tell the scribe anything, who may be another controller's by now."""
    Journal.claim(tmp_path, FakeClock()).close()
    with pytest.raises(Superseded):
        stage.acting.act(decision)
    assert stage.mover.moves == []
    assert stage.scribe.told == []


def test_what_the_cluster_keeps_is_given_back_without_a_word(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal is another controller's by now."""
    killed: list[Any] = []
    monkeypatch.setattr(acting_module.ray, "kill", killed.append)
    Journal.claim(tmp_path, FakeClock()).close()
    stage.acting.give_back()
    assert [method for method, _ in stage.mover.moves] == ["end", "end"]
    assert killed == [stage.scribe]
    assert stage.said() == []


def test_nodes_that_are_lost_give_their_groups_back(stage: Stage) -> None:
    stage.acting.act(Drop("a", "host-a", "silent"))
    assert stage.mover.moves == [("drop", ("a",)), ("give_back", (["id of a"],))]


def test_a_fault_aborts_the_world_that_was_begun_and_takes_the_last_word_back(stage: Stage) -> None:
    stage.acting.act(Break(FAULT, back_to=7))
    assert stage.mover.moves == [("say", (Word.GO_ON,)), ("abort", (("a", "b"), 1))]
    [fault] = [event for event in stage.events if event["event"] == "fault"]
    told = {name: fault[name] for name in ("kind", "culprits", "nodes", "step", "raised", "back_to")}
    assert told == {
        "kind": "raised", "culprits": [1], "nodes": ["host-a"], "step": 9, "raised": ["E", 1, 9], "back_to": 7
    }  # fmt: skip


def test_a_damaged_state_is_not_used_again(stage: Stage) -> None:
    stage.acting.act(Break(replace(FAULT, kind="damaged")))
    assert ("distrust", (Start(None),)) in stage.mover.moves


def test_every_world_after_the_first_has_a_generation_of_its_own(tmp_path: Path) -> None:
    stage = set_up(tmp_path)
    stage.acting.act(Begin(("a",), "start"))
    assert stage.acting.generation == 1
    stage.acting.act(Begin(("b", "a"), "resize"))
    assert stage.acting.generation == 2
    first, second = [event for event in stage.events if event["event"] == "started"]
    assert (first["generation"], second["generation"]) == (1, 2)
    assert second["ranks"] == [{"node": f"host-{name}", "pid": pid} for name in "ba" for pid in (1, 2)]
    [begin] = [arguments for method, arguments in stage.mover.moves[2:] if method == "begin"]
    assert begin[:3] == (2, ("b", "a"), [[1, 2], [1, 2]])  # as the journal says
    stage.acting.journal.close()


def test_what_was_left_to_go_back_bounds_what_the_next_world_goes_on_from(stage: Stage) -> None:
    stage.acting.act(Left(9, 7, "a leap"))
    stage.acting.act(Seek())
    vaults, bounds = next(arguments for method, arguments in stage.mover.moves if method == "begin")
    assert [vault.host for vault in vaults] == ["host-a", "host-b"]
    assert bounds == [Bound(1, 7)]


def test_damaged_checkpoints_that_were_passed_over_are_told_before_the_world_begins(stage: Stage) -> None:
    stage.mover.found = Start(None, ("step-00000008: bytes differ",))
    stage.acting.act(Begin(("a",), "fault"))
    assert stage.said() == ["checkpoint_damaged", "started"]


def test_killed_ranks_are_told_why(stage: Stage) -> None:
    stage.acting.act(Kill("a", "host-a", (7, 8)))
    [(method, (name, pids, why))] = stage.mover.moves
    assert (method, name, pids) == ("kill", "a", (7, 8))
    assert "elastic.abort_timeout_s" in why
    told = stage.events[-1]
    assert (told["node"], told["host"], told["pids"], told["reason"]) == ("a", "host-a", [7, 8], why)


def test_the_scribe_finishes_first_and_the_run_ends_though_it_does_not(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(_told: str, timeout: float) -> None:
        assert stage.scribe.told[-1][0] == "finish"
        raise GetTimeoutError(f"nothing for {timeout} s")

    monkeypatch.setattr(acting_module.ray, "get", hang)
    stage.acting.act(Finish(state=RunState.FAILED, exit_code=ExitCode.FAILED, reason="it broke", culprits=(1,)))
    assert stage.said() == ["scribe_failed", "failed"]
    last = stage.events[-1]
    assert (last["exit_code"], last["reason"], last["culprits"]) == (1, "it broke", [1])


def test_notes_are_written_down_in_the_next_look_round_and_suspicions_are_returned(stage: Stage) -> None:
    again = TroubleNews(step=5, generation=1, t=1.0, kind="not_repeated", reason="not finite", fed=())
    stage.acting.note([again, replace(again, kind="loss_spike")])
    assert stage.said() == []
    assert stage.acting.write_notes() == [again]
    assert stage.said() == ["not_repeated", "loss_spike"]


def test_a_node_is_greeted_once_when_its_ranks_are_warm(stage: Stage) -> None:
    for nodes in ([node("c", deaf=True)], [node("c")], [node("c")]):
        stage.acting.greet(nodes)
    assert stage.said() == ["node_joined"]
