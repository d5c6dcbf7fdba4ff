"""`stop`: the request, the wait, and how to go on."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from launch.here import Here
from launch.screen import Screen
from launch.stop import stop
from orchestrator.core.errors import BadInput
from orchestrator.core.words import ExitCode
from orchestrator.tracking.status import from_json
from tests.fakes.clock import FakeClock
from tests.fakes.run_dirs import WrittenRun
from tests.fakes.scripted_clock import ScriptedClock


@pytest.fixture
def run(tmp_path: Path) -> Iterator[WrittenRun]:
    """10 of 100 steps are done."""
    made = WrittenRun(tmp_path / "demo", FakeClock(), steps=100)
    made.claim()
    made.start(1, 2)
    made.train(range(10))
    yield made
    made.close()


def stopped(
    run: WrittenRun, *script: Callable[[], object], at_once: bool = False, wait: bool = True, as_json: bool = False
) -> tuple[ExitCode, str]:
    file = io.StringIO()
    place = Here([run.run_dir.path.parent], ScriptedClock(run.clock, script))
    screen = Screen(Console(file=file, width=80))
    code = stop(place, "demo", at_once=at_once, wait=wait, as_json=as_json, screen=screen)
    return code, file.getvalue().replace(str(run.run_dir.path.parent), "/runs")


def end(run: WrittenRun, event: str, **fields: object) -> Callable[[], object]:
    return lambda: run.journal.append(event, **fields)


def test_it_waits_for_the_checkpoint_and_says_how_to_go_on(run: WrittenRun) -> None:
    code, text = stopped(
        run,
        end(run, "stopping"),
        lambda: run.save(12),
        end(run, "stopped", exit_code=130, reason="", step=12),
    )
    assert code is ExitCode.DONE
    assert text == (
        "asked demo to stop after a checkpoint\n"
        "demo  stopped at step 12\n"
        "longhaul resume demo --root /runs  from step 12\n"
    )


def test_at_once_gives_up_what_is_not_saved(run: WrittenRun) -> None:
    run.save(5)
    code, text = stopped(run, end(run, "stopped", exit_code=130, reason="stopped at once"), at_once=True)
    request = run.run_dir.asked_to_stop()
    assert request is not None
    assert request["at_once"] is True
    assert code is ExitCode.DONE
    assert text == (
        "asked demo to stop at once\n"
        "demo  stopped at step 10\n"
        "  stopped at once\n"
        "longhaul resume demo --root /runs  from step 5\n"
    )


def test_a_run_that_was_done_before_it_heard_is_done(run: WrittenRun) -> None:
    code, text = stopped(run, end(run, "done", exit_code=0, step=100))
    assert code is ExitCode.DONE
    assert text.endswith("demo  done\n")


def test_a_run_that_fails_meanwhile_says_why(run: WrittenRun) -> None:
    code, text = stopped(run, end(run, "failed", exit_code=3, reason="no [memory]", step=10))
    assert code is ExitCode.FAILED
    assert "demo  failed at step 10\n  no [memory]\nlonghaul logs demo --root /runs\nlonghaul resume demo" in text


def test_a_run_that_is_lost_meanwhile_does_not_leave_anybody_waiting(run: WrittenRun) -> None:
    code, text = stopped(run, run.let_go)
    assert code is ExitCode.FAILED
    assert "demo  lost: its controller on" in text


def test_without_waiting_only_the_request_is_left(run: WrittenRun) -> None:
    assert stopped(run, wait=False) == (ExitCode.DONE, "asked demo to stop after a checkpoint\n")
    assert run.run_dir.asked_to_stop() is not None


@pytest.mark.parametrize("wait", [False, True])
def test_for_programs_the_answer_is_one_status(run: WrittenRun, wait: bool) -> None:
    script = [end(run, "stopped", exit_code=130, step=10)] if wait else []
    code, text = stopped(run, *script, wait=wait, as_json=True)
    assert code is ExitCode.DONE
    assert from_json(json.loads(text)).state == ("stopped" if wait else "running")


def test_an_interrupt_ends_the_waiting_only(run: WrittenRun) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    code, text = stopped(run, interrupt)
    assert code is ExitCode.STOPPED
    assert text.endswith("no longer waiting; the run will stop all the same\n")
    assert run.run_dir.asked_to_stop() is not None


def test_what_has_ended_is_not_asked(run: WrittenRun) -> None:
    run.journal.append("done", exit_code=0)
    with pytest.raises(BadInput, match="nothing to stop"):
        stopped(run)
