"""`status` as it goes on: redrawn, line by line, for programs; how it ends."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from launch.here import Here
from launch.screen import Screen
from launch.status import show_list, show_status
from orchestrator.core.words import ExitCode
from orchestrator.tracking.status import from_json
from tests.fakes.clock import FakeClock
from tests.fakes.run_dirs import WrittenRun
from tests.fakes.scripted_clock import ScriptedClock

pytestmark = pytest.mark.usefixtures("utc")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[WrittenRun]:
    """10 of 100 steps are done."""
    made = WrittenRun(tmp_path / "demo", FakeClock(1_790_000_000.0), steps=100)
    made.claim()
    made.start(1, 2)
    made.train(range(10), loss=[2.0] * 100)
    yield made
    made.close()


def watch(
    run: WrittenRun, *script: Callable[[], object], as_json: bool = False, terminal: bool = False
) -> tuple[ExitCode, str]:
    file = io.StringIO()
    console = Console(file=file, width=80, height=40, force_terminal=terminal, _environ={"TERM": "xterm"})
    place = Here([run.run_dir.path.parent], ScriptedClock(run.clock, script))
    code = show_status(place, "demo", watch=True, as_json=as_json, screen=Screen(console))
    return code, file.getvalue()


def interrupt() -> None:
    raise KeyboardInterrupt


def test_where_nothing_can_be_drawn_over_only_changes_are_told(run: WrittenRun) -> None:
    code, text = watch(
        run,
        lambda: None,
        lambda: run.train(range(10, 12), loss=[1.5] * 100),
        lambda: run.save(12),
        lambda: run.journal.append("stopping"),
        lambda: run.journal.append("stopped", exit_code=130, reason="", step=12),
    )
    assert code is ExitCode.STOPPED
    lines = text.splitlines()
    assert lines[:4] == [
        "14:13:25  running  step 10 of 100  loss 2.0000  0.5 s a step  45 s left",
        "14:13:28  running  step 12 of 100  loss 1.5000  0.5 s a step  44 s left",
        "14:13:29  checkpoint of step 12, written in 1.2 s",
        "14:13:30  ranks stop after a checkpoint",
    ]
    assert lines[4] == "14:13:30  stopping  step 12 of 100  loss 1.5000  0.5 s a step"
    assert lines[5:7] == ["14:13:31  stopped at step 12", "demo  stopped at step 12"]
    assert lines[-1] == f"longhaul resume demo --root {run.run_dir.path.parent}  from step 12"


@pytest.mark.parametrize(
    ("event", "fields", "code"),
    [
        ("done", {"exit_code": 0}, ExitCode.DONE),
        ("failed", {"exit_code": 3, "reason": "too large"}, ExitCode.DOES_NOT_FIT),
        ("stopped", {"exit_code": 75}, ExitCode.PREEMPTED),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_watching_ends_with_the_exit_code_of_the_run(
    run: WrittenRun, event: str, fields: dict[str, object], code: ExitCode, as_json: bool
) -> None:
    assert watch(run, lambda: run.journal.append(event, **fields), as_json=as_json)[0] is code


def test_a_lost_run_ends_the_watching_as_a_failure(run: WrittenRun) -> None:
    code, text = watch(run, run.let_go)
    assert code is ExitCode.FAILED
    assert "lost: its controller on" in text


def test_an_interrupt_ends_the_watching_only(run: WrittenRun) -> None:
    code, text = watch(run, interrupt)
    assert code is ExitCode.STOPPED
    assert text.endswith("no longer watching; the run goes on\n")
    assert run.run_dir.asked_to_stop() is None


def test_for_programs_each_line_is_a_status(run: WrittenRun) -> None:
    code, text = watch(run, lambda: run.train(range(10, 20)), interrupt, as_json=True)
    assert code is ExitCode.STOPPED
    assert [from_json(json.loads(line)).step for line in text.splitlines()] == [10, 20]


def test_on_a_terminal_the_screen_is_redrawn_and_the_last_one_stays(run: WrittenRun) -> None:
    code, text = watch(
        run,
        lambda: run.train(range(10, 20)),
        lambda: run.journal.append("done", exit_code=0, reason="", step=20),
        terminal=True,
    )
    assert code is ExitCode.DONE
    for frame in ("10 of 100", "20 of 100"):
        assert frame in text
    last = text[text.rindex("\x1b[2K") :]
    assert "done" in last
    assert last.count("directory") == 1
    assert f"directory   \x1b[0m{run.run_dir.path}\n" in last


def test_once_for_programs_is_one_object(run: WrittenRun) -> None:
    file = io.StringIO()
    place = Here([run.run_dir.path.parent], run.clock)
    code = show_status(place, "demo", watch=False, as_json=True, screen=Screen(Console(file=file, width=40)))
    assert code is ExitCode.DONE
    assert from_json(json.loads(file.getvalue())) == place.status("demo")


def test_a_list_for_programs_has_a_line_for_each_run(run: WrittenRun) -> None:
    WrittenRun(run.run_dir.path.with_name("other"), run.clock)
    file = io.StringIO()
    show_list(Here([run.run_dir.path.parent], run.clock), as_json=True, screen=Screen(Console(file=file, width=40)))
    found = [from_json(json.loads(line)) for line in file.getvalue().splitlines()]
    assert [(status.name, status.state) for status in found] == [("other", "preparing"), ("demo", "running")]
