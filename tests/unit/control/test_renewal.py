"""By its lease others know whether a run lives: it must know the run's processes as soon as they are there."""

from dataclasses import replace

import pytest

from orchestrator.control.jobs import NodeReport
from orchestrator.control.renewal import Family, Renewal, find_family
from tests.fakes.seen_nodes import READY, node

HERE = "host-a"


def report_of(name: str, *pids: int) -> NodeReport:
    report = node(name, *(replace(READY, pid=pid) for pid in pids)).report
    assert report is not None
    return replace(report, pid=100)


def test_the_lease_is_written_at_first_and_then_once_a_second() -> None:
    renewal, family = Renewal(), Family()
    times = [0.0, 0.5, 0.99, 1.0, 1.5, 2.0]
    assert [now for now in times if renewal.is_due(family, now)] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("changed", [Family((7, 8), True), Family((), True), Family((7,), False)])
def test_the_lease_is_written_at_once_when_other_processes_are_there(changed: Family) -> None:
    """A controller that dies a moment later must not leave one behind that knows nothing of its ranks."""
    renewal, family = Renewal(), Family((7,), all_here=True)
    assert renewal.is_due(family, 5.0)
    assert renewal.is_due(changed, 5.05)
    assert not renewal.is_due(changed, 5.1)
    assert renewal.is_due(family, 5.15)


def test_node_actors_and_their_ranks_are_of_the_family() -> None:
    assert find_family([report_of("a", 7, 8)], 1, HERE) == Family((100, 7, 8), all_here=True)


def test_a_rank_whose_process_is_not_known_yet_is_left_out() -> None:
    assert find_family([report_of("a", 7, 0)], 1, HERE) == Family((100, 7), all_here=True)


def test_processes_of_other_hosts_are_left_out_but_not_forgotten() -> None:
    assert find_family([report_of("a", 7), report_of("b", 9)], 2, HERE) == Family((100, 7), all_here=False)


def test_a_node_actor_that_has_not_answered_may_be_anywhere() -> None:
    assert find_family([report_of("a", 7)], 2, HERE) == Family((100, 7), all_here=False)
