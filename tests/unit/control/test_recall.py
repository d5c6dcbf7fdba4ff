"""What a new controller knows from the journal of those before it."""

from contextlib import closing
from pathlib import Path

from orchestrator.control.blame import Raised
from orchestrator.control.recall import recall
from orchestrator.control.start import Bound
from orchestrator.tracking.journal import Journal, read_events
from tests.fakes.clock import FakeClock


def write_journal(folder: Path) -> None:
    """Two worlds, of which the second was left to go back."""
    folder.mkdir()
    clock = FakeClock(1_000.0)
    journal = Journal.claim(folder, clock)
    journal.append("started", node_actors=["a", "b"], step=0)
    clock.sleep(5.0)
    raised = ["ValueError", 3, 11]
    journal.append("fault", kind="raised", reason="bad\nTraceback", nodes=["h1"], step=12, raised=raised, back_to=None)
    journal = journal.claim_next()
    journal.append("started", node_actors=["a"], step=10)
    journal.append("not_repeated", step=13, reason="loss of rank 0", fed={})
    journal.append("left", step=20, back_to=15, reason="a leap")
    journal.close()


def test_the_last_world_its_generation_and_what_failed_are_known_again(tmp_path: Path) -> None:
    write_journal(tmp_path / "events")
    recalled = recall(read_events(tmp_path / "events"), since_epoch_s=900.0)
    assert (recalled.generation, recalled.world, recalled.step) == (2, ("a",), 10)
    fault, suspicion = recalled.failures
    assert (fault.t, fault.hosts, fault.evidence) == (105.0, ("h1",), "bad")
    assert fault.raised == Raised("ValueError", 3, 11)
    assert (fault.spends_budget, suspicion.spends_budget) == (True, False)


def test_a_world_is_broken_from_its_fault_until_the_next_begins(tmp_path: Path) -> None:
    write_journal(tmp_path / "events")
    events = list(read_events(tmp_path / "events"))
    kinds = [event["event"] for event in events]
    until_fault = recall(events[: kinds.index("fault") + 1], 0.0)
    assert (until_fault.is_broken, until_fault.step, until_fault.world) == (True, 12, ("a", "b"))
    assert not recall(events[: kinds.index("fault")], 0.0).is_broken
    assert not recall(events, 0.0).is_broken


def test_how_long_worlds_took_to_start_is_known_again(tmp_path: Path) -> None:
    clock = FakeClock(1_000.0)
    journal = Journal.claim(tmp_path, clock)
    assert recall(read_events(tmp_path), 0.0).longest_start_s is None
    for start_s in (7.0, 3.0):
        journal.append("started", node_actors=["a"], step=0)
        clock.sleep(start_s)
        journal.append("training", step=0, seconds={})
    journal.close()
    assert recall(read_events(tmp_path), 0.0).longest_start_s == 7.0


def test_a_world_starts_until_it_trains(tmp_path: Path) -> None:
    clock = FakeClock(1_000.0)
    journal = Journal.claim(tmp_path, clock)
    journal.append("started", node_actors=["a"], step=0)
    clock.sleep(5.0)
    assert recall(read_events(tmp_path), since_epoch_s=900.0).starting_since == 100.0
    journal.append("training", step=0, seconds={}, world=1)
    assert recall(read_events(tmp_path), 0.0).starting_since is None
    journal.append("fault", reason="", step=3, raised=None)
    with closing(journal.claim_next()) as journal:
        journal.append("started", node_actors=["a"], step=2)
    assert recall(read_events(tmp_path), since_epoch_s=900.0).starting_since == 105.0


def test_what_a_world_tells_when_the_next_one_has_been_started_is_not_taken_for_that_ones(tmp_path: Path) -> None:
    clock = FakeClock(1_000.0)
    journal = Journal.claim(tmp_path, clock)
    journal.append("started", node_actors=["a"], step=0)
    clock.sleep(300.0)
    with closing(journal.claim_next()) as journal:
        journal.append("started", node_actors=["b"], step=0)
        journal.append("training", t=1_299.0, step=0, seconds={}, world=1)
        recalled = recall(read_events(tmp_path), 0.0)
        assert (recalled.starting_since, recalled.longest_start_s) == (1_300.0, 299.0)
        clock.sleep(4.0)
        journal.append("training", step=0, seconds={}, world=2)
    recalled = recall(read_events(tmp_path), 0.0)
    assert (recalled.starting_since, recalled.longest_start_s) == (None, 299.0)


def test_nodes_that_were_lost_before_they_were_warm_are_held_against_their_hosts(tmp_path: Path) -> None:
    journal = Journal.claim(tmp_path, FakeClock(1_000.0))
    journal.append("node_joined", node="spare", host="h2")
    journal.append("started", node_actors=["a"], step=0)
    for name, host in (("a", "h1"), ("spare", "h2"), ("unborn", "h3")):
        journal.append("node_lost", node=name, host=host, reason=f"{host} is silent")
    journal.close()
    [failure] = recall(read_events(tmp_path), since_epoch_s=900.0).failures
    assert (failure.t, failure.hosts, failure.evidence) == (100.0, ("h3",), "h3 is silent")
    assert not failure.spends_budget


def test_what_went_beyond_where_a_later_world_began_does_not_count(tmp_path: Path) -> None:
    write_journal(tmp_path / "events")
    recalled = recall(read_events(tmp_path / "events"), since_epoch_s=0.0)
    assert recalled.bounds == [Bound(0, 0), Bound(1, 10), Bound(2, 15)]


def test_worlds_that_earlier_versions_began_bound_nothing() -> None:
    event = {"event": "started", "generation": 2, "t": 1.0, "node_actors": ["a"], "checkpoint": "step-00000005-g0001"}
    assert recall([event], 0.0).bounds == []
