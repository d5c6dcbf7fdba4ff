"""Reading the logs of a run: real files and journals; each look of a follower is one beat of a scripted clock."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.errors import BadInput
from orchestrator.storage.logfiles import Position, rotated_file
from orchestrator.storage.publish import publish_json
from orchestrator.tracking.journal import Journal
from orchestrator.tracking.lease import Lease
from orchestrator.tracking.logs import LogLine, LogWish, read_log_lines
from orchestrator.tracking.rundir import RunDir
from tests.fakes.clock import FakeClock


class ScriptedClock(FakeClock):
    """Between two looks of a follower one action is done; there must be as many as there are looks but one."""

    def __init__(self, *actions: Callable[[], Any]) -> None:
        super().__init__()
        self.actions = list(actions)

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.actions.pop(0)()


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "one")
    made.create(lambda _: None)
    made.logs.mkdir()
    return made


@pytest.fixture
def journal(run: RunDir) -> Iterator[Journal]:
    with closing(Journal.claim(run.events, FakeClock())) as claimed:
        yield claimed


def start(journal: Journal, *hosts: str) -> None:
    """Pids count from 0 on each host."""
    ranks = [{"node": host, "pid": hosts[:number].count(host)} for number, host in enumerate(hosts)]
    journal.append("started", ranks=ranks)


def write(run: RunDir, log: str, *lines: str) -> None:
    with (run.logs / f"{log}.log").open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def read(run: RunDir, clock: FakeClock | None = None, **wish: Any) -> list[tuple[int | str, str]]:
    """Each line's rank, or log, and text."""
    lines = list(read_log_lines(run, LogWish(**wish), clock or FakeClock()))
    return [(line.file if line.rank is None else line.rank, line.text) for line in lines]


def test_ranks_are_named_by_the_journal_and_come_before_the_others(run: RunDir, journal: Journal) -> None:
    start(journal, "h2", "h2", "h1")
    for log in ("controller", "node-h1", "nursery-7", "scribe", "rank-h1-0", "rank-h2-0", "rank-h2-1"):
        write(run, log, f"I am {log}")
    assert read(run) == [
        (0, "I am rank-h2-0"),
        (1, "I am rank-h2-1"),
        (2, "I am rank-h1-0"),
        ("controller", "I am controller"),
        ("node-h1", "I am node-h1"),
        ("nursery-7", "I am nursery-7"),
        ("scribe", "I am scribe"),
    ]
    assert read(run, rank=2) == [(2, "I am rank-h1-0")]


def test_the_newest_world_says_which_log_is_whose(run: RunDir, journal: Journal) -> None:
    start(journal, "h1", "h2")
    journal.append("fault", reason="h1 is gone")
    with closing(Journal.claim(run.events, FakeClock())) as later:
        start(later, "h2", "h3")
        for host in ("h1", "h2", "h3"):
            write(run, f"rank-{host}-0", host)
        assert read(run) == [(0, "h2"), (1, "h3"), ("rank-h1-0", "h1")]


@pytest.mark.parametrize("event", ["failed", "fault"])
def test_the_ranks_that_failed_first_come_first(run: RunDir, journal: Journal, event: str) -> None:
    start(journal, "h1", "h1", "h1", "h1")
    journal.append(event, reason="bad", culprits=[2, 1])
    for local in range(4):
        write(run, f"rank-h1-{local}", "a line")
    assert [rank for rank, _ in read(run)] == [2, 1, 0, 3]
    with closing(Journal.claim(run.events, FakeClock())) as resumed:
        start(resumed, "h1", "h1", "h1", "h1")
        assert [rank for rank, _ in read(run)] == [0, 1, 2, 3]


def test_of_each_log_the_last_lines_are_read(run: RunDir, journal: Journal) -> None:
    start(journal, "h1", "h1")
    for local in range(2):
        write(run, f"rank-h1-{local}", *(f"line {n}" for n in range(100)))
    assert read(run, lines=2) == [(0, "line 98"), (0, "line 99"), (1, "line 98"), (1, "line 99")]
    assert len(read(run, lines=None)) == 200


def test_a_rank_that_does_not_exist_is_refused_with_those_that_do(run: RunDir, journal: Journal) -> None:
    with pytest.raises(BadInput, match="the run has not started"):
        read(run, rank=0)
    start(journal, "h1", "h1")
    for rank in (-1, 2):
        with pytest.raises(BadInput, match=f"there is no rank {rank}\n  -> ranks go from 0 to 1"):
            read(run, rank=rank, follow=True)


def test_following_a_rank_waits_for_the_run_to_start(run: RunDir, journal: Journal) -> None:
    clock = ScriptedClock(
        lambda: start(journal, "h1"),
        lambda: write(run, "rank-h1-0", "here I am"),
        lambda: journal.append("done", exit_code=0),
    )
    assert read(run, clock, rank=0, follow=True) == [(0, "here I am")]


def test_following_ends_when_the_run_has_ended_and_everything_has_been_read(run: RunDir, journal: Journal) -> None:
    def end() -> None:
        write(run, "rank-h1-0", "last words")
        with (run.logs / "rank-h1-0.log").open("a") as file:
            file.write("without a newline")
        journal.append("failed", exit_code=1, reason="bad")

    start(journal, "h1")
    write(run, "rank-h1-0", "begin")
    clock = ScriptedClock(lambda: write(run, "rank-h1-0", "more"), lambda: None, end)
    texts = [text for _, text in read(run, clock, follow=True)]
    assert texts == ["begin", "more", "last words", "without a newline"]
    assert clock.actions == []


def test_following_ends_when_the_run_is_lost(run: RunDir, journal: Journal) -> None:
    def lose() -> None:
        lease = Lease(generation=1, t=0.0, lease_s=15.0, address="a", host="elsewhere", members=[], all_here=False)
        publish_json(run.lease, {"format": 1, **asdict(lease)})

    write(run, "controller", "here")
    clock = ScriptedClock(lambda: None, lose)
    assert read(run, clock, follow=True) == [("controller", "here")]
    assert clock.actions == []


def test_following_goes_on_over_rotation_and_new_logs_without_losing_a_line(run: RunDir, journal: Journal) -> None:
    def rotate(number: int) -> Callable[[], None]:
        def act() -> None:
            path = run.logs / "rank-h1-0.log"
            path.rename(rotated_file(path, number))
            write(run, "rank-h1-0", f"first of {number + 1}")
            with rotated_file(path, number).open("a") as late:
                late.write(f"late in {number}\n")

        return act

    def join() -> None:
        write(run, "node-h2", *(f"line {n}" for n in range(100)))

    start(journal, "h1")
    write(run, "rank-h1-0", "first of 1")
    quiet = [lambda: None] * 8
    clock = ScriptedClock(rotate(1), *quiet, join, rotate(2), rotate(3), lambda: journal.append("done", exit_code=0))
    lines = read(run, clock, follow=True, lines=1)
    expected = ["first of 1", "late in 1", "first of 2", "late in 2", "first of 3", "late in 3", "first of 4"]
    assert [text for rank, text in lines if rank == 0] == expected
    assert [text for rank, text in lines if rank == "node-h2"] == [f"line {n}" for n in range(100)]


def test_following_goes_on_when_a_run_that_has_ended_is_resumed_meanwhile(run: RunDir, journal: Journal) -> None:
    start(journal, "h1")
    journal.append("stopped", exit_code=130)
    write(run, "rank-h1-0", "of the first life")
    clock = ScriptedClock(lambda: journal_2.append("done", exit_code=0))
    lines = read_log_lines(run, LogWish(follow=True), clock)
    assert next(lines).text == "of the first life"
    with closing(Journal.claim(run.events, FakeClock())) as journal_2:
        write(run, "rank-h1-0", "of the second life")
        assert [line.text for line in lines] == ["of the second life"]
    assert clock.actions == []


def test_a_reader_that_was_cut_off_goes_on_after_the_last_line_it_had(run: RunDir, journal: Journal) -> None:
    start(journal, "h1")
    write(run, "rank-h1-0", "one", "two")
    rotated = run.logs / "rank-h1-0.log"
    rotated.rename(rotated_file(rotated, 1))
    write(run, "rank-h1-0", "three")
    lines = list(read_log_lines(run, LogWish(), FakeClock()))
    write(run, "node-h1", *(f"new {n}" for n in range(100)))
    for i, line in enumerate(lines):
        cursor = json.loads(json.dumps({line.file: line.cursor}))  # as it comes back from a command line
        again = read(run, lines=1, cursor=cursor)
        assert again[: 2 - i] == [(0, text) for text in ("two", "three")[i:]]
        assert len(again) == 2 - i + 100  # what was not there before is read whole


def test_a_line_survives_json() -> None:
    line = LogLine(file="rank-h1-0", rank=3, text='"[/é]\t', cursor=Position(2, 7))
    assert LogLine.from_json(json.loads(json.dumps(line.to_json()))) == line


def test_a_run_without_logs_has_no_lines(run: RunDir) -> None:
    run.logs.rmdir()
    assert read(run) == []
