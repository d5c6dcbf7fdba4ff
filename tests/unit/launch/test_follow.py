"""What a follower shows and returns, from run directories alone."""

import io
import json
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from launch.follow import Follower
from orchestrator.config.training import TrainSection
from orchestrator.core.clock import SystemClock
from orchestrator.core.words import ExitCode
from orchestrator.tracking.journal import Journal
from orchestrator.tracking.rundir import RunDir


def follow(run: RunDir) -> tuple[ExitCode, str]:
    text = io.StringIO()
    code = Follower(run, TrainSection(steps=2, global_batch=1, log_every=1), Console(file=text, width=200)).follow()
    return code, text.getvalue()


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "one")
    made.create(lambda _: None)
    return made


def test_a_reason_full_of_brackets_is_shown_as_it_is(run: RunDir) -> None:
    """As gloo writes it: rich would take [/pytorch/...] for a closing tag."""
    reason = "[/pytorch/gloo/pair.cc:547] Connection closed by peer [127.0.0.1]:1"
    with closing(Journal.claim(run.events, SystemClock())) as journal:
        journal.append("fault", reason=reason)
        journal.append("failed", exit_code=1, reason=reason)
    code, text = follow(run)
    assert code is ExitCode.FAILED
    assert text.count(reason) == 2


def test_steps_and_evaluations_are_shown_and_the_end_is_the_journals(run: RunDir) -> None:
    rows = [
        {"format": 1},
        {"step": 0, "generation": 1, "loss": 5.0, "step_s": 0.1},
        {"step": 1, "generation": 1, "loss": 4.0, "step_s": 0.1},
        {"step": 2, "generation": 1, "kind": "evaluation", "split": "validation", "loss": 4.5, "perplexity": 90.0},
        {"step": 1, "generation": 1, "kind": "note", "text": "run done"},
    ]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with closing(Journal.claim(run.events, SystemClock())) as journal:
        journal.append("started", world_size=2, checkpoint=None)
        journal.append("done", exit_code=0, step=2)
    code, text = follow(run)
    assert code is ExitCode.DONE
    assert "1/2  loss 5.0000" in text  # train.log_every=1
    assert "2/2  loss 4.0000" in text
    assert "validation: loss 4.5, perplexity 90" in text


def test_a_stopped_run_says_how_to_go_on(run: RunDir) -> None:
    with closing(Journal.claim(run.events, SystemClock())) as journal:
        journal.append("stopped", exit_code=130, step=7)
    code, text = follow(run)
    assert code is ExitCode.STOPPED
    assert f"stopped at step 7; go on with `longhaul resume {run.path}`" in text


def test_a_run_that_is_done_early_is_no_failure_and_says_why(run: RunDir) -> None:
    with closing(Journal.claim(run.events, SystemClock())) as journal:
        journal.append("done", exit_code=0, step=1, reason="stopped early: no better loss")
    code, text = follow(run)
    assert code is ExitCode.DONE
    assert "stopped early: no better loss" in text
