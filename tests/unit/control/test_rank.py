"""What a rank tells its node actor, and what it hears: everything, in order, and one world after another."""

import threading
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import pytest

from orchestrator.control.abort import WayOut
from orchestrator.control.jobs import Abort, Assignment, NewsParcel, Seat, VaultDoor
from orchestrator.control.line import Line
from orchestrator.core.errors import WorldLeft
from orchestrator.core.news import StepNews
from tests.fakes.rank_processes import job_of

TIMEOUT_S = 30.0


def news_of(step: int) -> StepNews:
    return StepNews(step=step, generation=1, t=1.0, metrics={"loss": 1.0}, ledger={})


@pytest.fixture
def ends() -> tuple[Line, WayOut, Connection]:
    """A line, the way out of its jobs, and the node actor's end."""
    ours, theirs = Pipe()
    way_out = WayOut()
    return Line(ours, way_out, lambda: None, lambda: None), way_out, theirs


def assignment(generation: int) -> Assignment:
    door = VaultDoor(socket="", token="", local_rank=0, slots=())
    return Assignment(job_of("step", generation, 0, 1), Seat("cpu", door))


def test_what_is_told_has_been_sent_when_telling_returns(ends: tuple[Line, WayOut, Connection]) -> None:
    line, _, theirs = ends
    for step in range(5):
        line.tell(news_of(step))
    line.say("the end")
    heard = [theirs.recv() for _ in range(6)]
    assert heard == [*(NewsParcel((news_of(step),)) for step in range(5)), "the end"]


def test_flush_waits_for_what_was_told_before(ends: tuple[Line, WayOut, Connection]) -> None:
    line, _, theirs = ends
    line.tell(news_of(0))
    line.tell(news_of(1))
    flushing = threading.Thread(target=line.flush, daemon=True)
    flushing.start()
    theirs.send(1)
    while line.settled < 1:
        pass
    assert flushing.is_alive()
    theirs.send(2)
    flushing.join(TIMEOUT_S)
    assert not flushing.is_alive()


def test_who_is_to_get_out_does_not_wait_for_the_disk(ends: tuple[Line, WayOut, Connection]) -> None:
    line, way_out, theirs = ends
    theirs.send(assignment(3))
    line.next_assignment()
    line.tell(news_of(0))
    theirs.send(Abort(3))
    with pytest.raises(WorldLeft):
        line.flush()
    assert way_out.was_taken


def test_an_abort_is_for_its_own_generation_and_earlier_ones(ends: tuple[Line, WayOut, Connection]) -> None:
    line, way_out, theirs = ends
    theirs.send(Abort(3))  # nobody is in it
    theirs.send(assignment(4))
    line.next_assignment()
    theirs.send(Abort(3))
    theirs.send(0)
    theirs.send(assignment(5))
    line.next_assignment()
    assert not way_out.was_taken


def test_an_abort_right_behind_its_assignment_is_heard(ends: tuple[Line, WayOut, Connection]) -> None:
    line, way_out, theirs = ends
    theirs.send(assignment(4))
    theirs.send(Abort(4))
    theirs.send(1)
    while line.settled < 1:
        pass
    assert line.next_assignment().job.generation == 4
    assert way_out.was_taken


def test_whoever_is_left_alone_hears_of_it() -> None:
    ours, theirs = Pipe()
    is_alone = threading.Event()
    Line(ours, WayOut(), is_alone.set, lambda: None)
    theirs.close()
    assert is_alone.wait(TIMEOUT_S)
