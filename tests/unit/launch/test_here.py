"""Runs in folders of this machine: found, listed, watched, asked to stop."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.here import Here, find_run
from launch.leftovers import PruneWish
from orchestrator.core.errors import BadInput, DataError
from orchestrator.tracking.logs import LogWish
from orchestrator.tracking.status import SeenState
from tests.fakes.clock import FakeClock
from tests.fakes.run_dirs import WrittenRun
from tests.fakes.scripted_clock import ScriptedClock


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def run(root: Path) -> Iterator[WrittenRun]:
    """It has been claimed and started on one rank."""
    made = WrittenRun(root / "demo", FakeClock())
    made.claim()
    made.start(1, 1)
    yield made
    made.close()


# ---- finding ----


def test_a_run_is_found_by_its_name_and_by_its_path(run: WrittenRun, root: Path) -> None:
    assert find_run("demo", root) == find_run(str(root / "demo"), root / "elsewhere") == run.run_dir


def test_a_name_that_is_none_is_answered_with_those_there_are(run: WrittenRun, root: Path) -> None:
    with pytest.raises(BadInput, match=f"(?s)demi: no such run; did you mean 'demo'.*runs in {root}: demo"):
        find_run("demi", root)


def test_of_very_many_names_only_some_are_told(root: Path) -> None:
    for number in range(25):
        WrittenRun(root / f"run-{number:02d}", FakeClock())
    with pytest.raises(BadInput, match=r"run-19 and 5 more$"):
        find_run("quite-different", root)


def test_a_folder_without_runs_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"{tmp_path} holds no runs"):
        find_run("demo", tmp_path)


def test_one_name_in_two_folders_needs_a_path(run: WrittenRun, root: Path, tmp_path: Path) -> None:
    WrittenRun(tmp_path / "other" / "demo", FakeClock())
    with pytest.raises(BadInput, match=f"2 runs have this name\n.*{root / 'demo'}, {tmp_path / 'other' / 'demo'}"):
        find_run("demo", root, tmp_path / "other")


@pytest.mark.parametrize("missing", ["events", "manifest.json", "plan.json"])
def test_a_foreign_folder_is_no_run(run: WrittenRun, root: Path, missing: str) -> None:
    path = root / "demo" / missing
    path.rename(path.with_name("away"))
    with pytest.raises(BadInput, match=f"{root / 'demo'}: has a config.yaml, but is no run of Longhaul: {missing} not"):
        find_run("demo", root)


def test_a_run_of_a_later_format_is_refused(run: WrittenRun, root: Path) -> None:
    run.run_dir.plan.write_text('{"format": 2}')
    with pytest.raises(DataError, match="format is 2, this Longhaul reads 1"):
        find_run("demo", root)


# ---- listing ----


def test_runs_are_listed_the_newest_first(root: Path) -> None:
    clock = FakeClock()
    for name in ("b", "c", "a"):
        made = WrittenRun(root / name, clock)
        made.claim()
        made.close()
        clock.sleep(10.0)
    assert [status.name for status in Here([root], clock).runs()] == ["a", "c", "b"]


def test_what_is_no_run_is_not_listed(run: WrittenRun, root: Path) -> None:
    (root / ".half.xyz" / "events").mkdir(parents=True)
    (root / ".half.xyz" / "config.yaml").write_text("name: half")
    (root / "configs").mkdir()
    (root / "configs" / "config.yaml").write_text("name: x")
    (root / "notes.txt").write_text("")
    assert [status.name for status in Here([root], run.clock).runs()] == ["demo"]


@pytest.mark.parametrize("damage", ["config.yaml", "plan.json", "lease.json", "events/g0001.jsonl", "metrics.jsonl"])
def test_a_damaged_run_does_not_hide_the_others(run: WrittenRun, root: Path, damage: str) -> None:
    other = WrittenRun(root / "damaged", run.clock)
    other.claim()
    other.close()
    (root / "damaged" / damage).write_bytes(b"\0: [}\n")
    states = {status.name: status.state for status in Here([root], run.clock).runs()}
    assert states == {"demo": "running", "damaged": "unreadable"}


def test_a_root_that_is_not_there_has_no_runs(tmp_path: Path) -> None:
    assert Here([tmp_path / "no"]).runs() == []


# ---- what people type next ----


def test_commands_name_the_folder_unless_it_is_the_usual_one(tmp_path: Path) -> None:
    assert Here().again == ""
    assert Here([Path("my runs"), Path("b")]).again == " --root 'my runs' --root b"
    assert Here([tmp_path]).where == str(tmp_path)


# ---- watching and asking ----


def test_watching_ends_with_the_end(run: WrittenRun, root: Path) -> None:
    run.train(range(3))
    script = [lambda: run.train(range(3, 5)), lambda: run.journal.append("done", exit_code=0, step=5)]
    seen = [(status.state, status.step) for status in Here([root], ScriptedClock(run.clock, script)).watch("demo")]
    assert seen == [("running", 3), ("running", 5), ("done", 5)]


def test_watching_ends_when_the_run_is_lost(run: WrittenRun, root: Path) -> None:
    place = Here([root], ScriptedClock(run.clock, [run.let_go]))
    assert [status.state for status in place.watch("demo")] == [SeenState.RUNNING, SeenState.LOST]


def test_a_stop_is_a_request_in_the_run_directory(run: WrittenRun, root: Path) -> None:
    place = Here([root], run.clock)
    for at_once in (False, True):
        place.ask_to_stop("demo", at_once=at_once)
        request = run.run_dir.asked_to_stop()
        assert request is not None
        assert request["at_once"] is at_once


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ("stopped", "the run has stopped already\n  -> `longhaul resume demo --root "),
        ("failed", "the run has failed already\n  -> `longhaul resume demo --root "),
        ("done", "the run is done, there is nothing to stop"),
    ],
)
def test_an_ended_run_cannot_be_stopped(run: WrittenRun, root: Path, event: str, message: str) -> None:
    run.journal.append(event, exit_code=0)
    with pytest.raises(BadInput) as raised:
        Here([root], run.clock).ask_to_stop("demo", at_once=False)
    assert message in str(raised.value)
    assert run.run_dir.asked_to_stop() is None


def test_nobody_hears_a_request_to_a_lost_run(run: WrittenRun, root: Path) -> None:
    run.let_go()
    with pytest.raises(BadInput, match=r"(?s)is gone, so nobody would hear the request.*longhaul resume demo"):
        Here([root], run.clock).ask_to_stop("demo", at_once=False)


# ---- logs and leftovers ----


def test_logs_are_those_of_the_run(run: WrittenRun, root: Path) -> None:
    run.run_dir.logs.mkdir()
    (run.run_dir.logs / "controller.log").write_text("hello\n")
    assert [line.text for line in Here([root], run.clock).logs("demo", LogWish())] == ["hello"]


def test_leftovers_are_of_the_runs_named_or_of_all(run: WrittenRun, root: Path) -> None:
    run.journal.append("done", exit_code=0)
    other = WrittenRun(root / "other", run.clock)
    other.claim()
    other.journal.append("done", exit_code=0)
    other.close()
    place, wish = Here([root], run.clock), PruneWish(whole=True)
    assert [one.run for one in place.leftovers([], wish)] == ["demo", "other"]
    assert [one.run for one in place.remove(["other"], wish)] == ["other"]
    assert [path.name for path in root.iterdir()] == ["demo"]
