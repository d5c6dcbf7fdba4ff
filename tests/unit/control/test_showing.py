"""What people are shown of a run that waits, and of one that trains."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.control.policy import Phase, State
from orchestrator.control.seen import Limits, NodeSeen
from orchestrator.control.showing import SHOW_EVERY_S, Showing
from orchestrator.tracking.now import NodeOffer, read_now
from orchestrator.tracking.rundir import RunDir
from tests.fakes.clock import FakeClock
from tests.fakes.seen_nodes import node, training

LIMITS = Limits(min_nodes=3, max_nodes=4, ranks_per_node=1)
OFFER = NodeOffer(host="c", node_id="id-c", free={"CPU": 0.0}, total={"CPU": 2.0}, why_not="0 of 2 CPU free")


@pytest.mark.parametrize(
    ("nodes", "held", "ready"),
    [((), 2, 2), ((node("a"),), 1, 2), ((node("a"), node("b", lost="silent")), 0, 1)],
    ids=["held", "held and started", "lost"],
)
def test_nodes_that_wait_for_others_count_whether_or_not_anything_runs_there(
    tmp_path: Path, nodes: Sequence[NodeSeen], held: int, ready: int
) -> None:
    showing = Showing(RunDir(tmp_path), FakeClock(100.0), {"CPU": 2.0}, LIMITS)
    showing.show(1, State(phase=Phase.WAITING, since=90.0), nodes, held, [OFFER])
    now = read_now(tmp_path)
    assert now is not None
    assert now.waiting is not None
    assert (now.waiting.ready, now.waiting.needed, now.waiting.since) == (ready, 3, 90.0)
    assert showing.why_waiting == "each node must offer 2 CPU; c: 0 of 2 CPU free"


def test_it_is_shown_about_once_a_second(tmp_path: Path) -> None:
    clock = FakeClock(100.0)
    showing, state = Showing(RunDir(tmp_path), clock, {"CPU": 2.0}, LIMITS), State(phase=Phase.TRAINING, since=90.0)
    for step in (5, 6):
        showing.show(1, state, [node("a", training(0, step=step))], 0, [])
        clock.time += SHOW_EVERY_S / 2
    now = read_now(tmp_path)
    assert now is not None
    assert (now.waiting, [rank.step for rank in now.ranks]) == (None, [5])
    showing.show(1, state, [node("a", training(0, step=7))], 0, [])
    now = read_now(tmp_path)
    assert now is not None
    assert [rank.step for rank in now.ranks] == [7]
