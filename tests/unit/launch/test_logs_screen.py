"""What `longhaul logs` prints and returns, from run directories alone."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from launch.logs import show_logs
from launch.screen import Screen
from orchestrator.core.errors import BadInput
from orchestrator.core.words import ExitCode
from orchestrator.storage.logfiles import Position
from orchestrator.tracking.logs import LogLine, LogWish
from orchestrator.tracking.status import RunStatus, SeenState


class OneRun:
    """A launch.place.Place with one run that has these lines, and these states one after another."""

    def __init__(self, *states: RunStatus, lines: list[LogLine]) -> None:
        self.states, self.lines = list(states), lines

    def status(self, name: str) -> RunStatus:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def logs(self, name: str, wish: LogWish) -> Iterator[LogLine]:
        yield from self.lines


def seen(state: SeenState, **fields: Any) -> RunStatus:
    return RunStatus(name="quickstart", path="/runs/quickstart", state=state, read_at=1_000.0, **fields)


def line(file: str, rank: int | None, text: str) -> LogLine:
    return LogLine(file=file, rank=rank, text=text, cursor=Position(1, 10))


LINES = [
    line("rank-10.0.0.2-0", 8, "step 7: loss is [bold]not[/bold] markup, nor is [/pytorch/gloo/pair.cc:547] :smile:"),
    line(
        "rank-10.0.0.1-0", 0, "   indented, and so long that it does not fit into eighty columns: " + "/long/path" * 4
    ),
    line("controller", None, "12:00:00 INFO warming\r50 %\r100 %\r"),
    line("rank-10.0.0.1-0", 0, "\x1b[31mred\x1b[0m\x1b[2J\x07 and a bell"),
]
FAILED = seen(SeenState.FAILED, reason="rank 8 on 10.0.0.2 at step 7: ValueError: no\n  -> [way] out", exit_code=1)


def show(place: Any, *, as_json: bool = False, colours: bool = False, **wish: Any) -> tuple[ExitCode, str]:
    text = io.StringIO()
    console = Console(file=text, width=80, force_terminal=colours, color_system="standard" if colours else None)
    code = show_logs(place, "quickstart", LogWish(**wish), as_json=as_json, screen=Screen(console))
    return code, text.getvalue()


def test_why_a_run_failed_stands_above_its_lines() -> None:
    code, text = show(OneRun(FAILED, lines=LINES))
    assert code is ExitCode.DONE
    assert text == (
        "failed: rank 8 on 10.0.0.2 at step 7: ValueError: no\n"
        "  -> [way] out\n"
        "rank 8 | step 7: loss is [bold]not[/bold] markup, nor is [/pytorch/gloo/pair.cc:547] :smile:\n"
        "rank 0 |    indented, and so long that it does not fit into eighty columns: "
        "/long/path/long/path/long/path/long/path\n"
        "controller | 100 %\n"
        "rank 0     | red and a bell\n"
    )


def test_each_rank_has_its_colour_on_a_terminal() -> None:
    _, text = show(OneRun(seen(SeenState.RUNNING), lines=LINES[1:3]), colours=True)
    rank, controller = text.splitlines()
    assert rank.startswith("\x1b[36mrank 0\x1b[0m |    indented")
    assert controller == "\x1b[2mcontroller\x1b[0m | 100 %"


def test_for_programs_there_are_only_objects_one_a_line() -> None:
    code, text = show(OneRun(FAILED, lines=LINES), as_json=True)
    assert code is ExitCode.DONE
    assert [LogLine.from_json(json.loads(row)) for row in text.splitlines()] == LINES


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        (seen(SeenState.DONE, exit_code=0, step=60), ExitCode.DONE, "done: at step 60"),
        (seen(SeenState.STOPPED, exit_code=130, step=7), ExitCode.STOPPED, "stopped: at step 7"),
        (seen(SeenState.STOPPED, exit_code=75, step=7), ExitCode.PREEMPTED, "stopped: at step 7"),
        (FAILED, ExitCode.FAILED, "failed: rank 8 on 10.0.0.2 at step 7: ValueError: no\n  -> [way] out"),
        (seen(SeenState.LOST, reason="its controller is gone"), ExitCode.FAILED, "lost: its controller is gone"),
    ],
)
def test_following_ends_with_the_words_and_the_exit_code_of_the_run(end: RunStatus, code: ExitCode, words: str) -> None:
    place = OneRun(seen(SeenState.RUNNING), end, lines=LINES[2:3])
    assert show(place, follow=True) == (code, f"controller | 100 %\n{words}\n")


def test_a_run_that_had_ended_before_tells_its_end_once() -> None:
    code, text = show(OneRun(FAILED, lines=[]), follow=True)
    assert code is ExitCode.FAILED
    assert text.count("failed: ") == 1
    assert text.endswith("no lines yet\n")


def test_a_rank_that_is_not_there_is_an_error() -> None:
    class NoSuchRank(OneRun):
        def logs(self, name: str, wish: LogWish) -> Iterator[LogLine]:
            raise BadInput("there is no rank 9")
            yield

    with pytest.raises(BadInput, match="rank 9"):
        show(NoSuchRank(seen(SeenState.RUNNING), lines=[]), rank=9)


WATCHING = """
import signal, sys
from itertools import count
from launch.logs import show_logs
from launch.screen import Screen
from tests.unit.launch.test_logs_screen import OneRun, line, seen
from orchestrator.tracking.logs import LogWish
from orchestrator.tracking.status import SeenState

how = sys.argv[1]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it starts in the background ignore it

def lines():
    for n in range(3) if how == "few" else count():
        yield line("rank-h-0", 0, f"line {n}")
        if n == 0 and how != "all":
            sys.stdin.readline()  # more comes only when somebody says so

place = OneRun(seen(SeenState.RUNNING), lines=lines())
sys.exit(show_logs(place, "quickstart", LogWish(follow=how == "follow"), as_json=False, screen=Screen()))
"""


@pytest.mark.parametrize("how", ["follow", "all", "few"])
def test_a_closed_pipe_ends_it_quietly(how: str) -> None:
    watching = start_watching(how)
    assert watching.stdout is not None
    if how != "few":  # which are written only when the reader has gone
        assert watching.stdout.readline() == b"rank 0 | line 0\n"
    watching.stdout.close()
    _, errors = watching.communicate(timeout=30)
    assert (watching.returncode, errors) == (0, b"")


def test_an_interrupt_ends_only_the_watching_and_says_so() -> None:
    watching = start_watching("follow")
    assert watching.stdout is not None
    watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    shown, errors = watching.communicate(timeout=30)
    assert (watching.returncode, errors) == (130, b"")
    assert shown.endswith(b"only the watching has ended; `longhaul stop` ends a run\n")


def start_watching(how: str) -> subprocess.Popen[bytes]:
    root = Path(__file__).parents[3]
    environment = os.environ | {"PYTHONPATH": str(root)}
    environment.pop("PYTHONUNBUFFERED", None)  # it would hide what is not flushed
    command = [sys.executable, "-c", WATCHING, how]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, cwd=root)
