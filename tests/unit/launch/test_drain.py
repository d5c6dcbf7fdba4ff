"""`drain`: who is told that a machine is about to go."""

import io
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from launch import drain as drain_module
from launch.drain import drain, find_runs_here
from launch.screen import Screen
from orchestrator.core.errors import BadInput
from tests.fakes.clock import FakeClock
from tests.fakes.run_dirs import WrittenRun


@pytest.fixture
def run(tmp_path: Path) -> Iterator[WrittenRun]:
    made = WrittenRun(tmp_path / "demo", FakeClock(), steps=100)
    made.claim()
    made.start(1, 2)
    yield made
    made.close()


@pytest.fixture
def processes(tmp_path: Path, run: WrittenRun) -> Path:
    """As /proc shows them: a node actor of the run, a rank of it, and one that has just ended."""
    logs, proc = run.run_dir.logs, tmp_path / "proc"
    for pid, title, log in ((7, "ray::NodeActor", "node-10.0.0.1.log"), (8, "python", "rank.log")):
        (proc / str(pid) / "fd").mkdir(parents=True)
        (proc / str(pid) / "cmdline").write_bytes(title.encode() + b"\0")
        (proc / str(pid) / "fd" / "1").symlink_to(logs / log)
    (proc / "9").mkdir()
    (proc / "sys").mkdir()
    return proc


def told(name: str | None, root: Path, node: str | None = None) -> str:
    file = io.StringIO()
    screen = Screen(Console(file=file, width=80))
    drain(name, root, node, 30.0, clock=FakeClock(100.0), screen=screen)
    return file.getvalue()


def test_a_run_that_is_named_is_told_of_the_node(run: WrittenRun) -> None:
    said = told("demo", run.run_dir.path.parent, "10.0.0.2")
    assert said == f"asked {run.run_dir.path} to leave 10.0.0.2\n"
    assert run.run_dir.drained_nodes() == {"10.0.0.2": 130.0}


def test_runs_with_a_node_actor_here_are_found(run: WrittenRun, processes: Path) -> None:
    assert [found.path for found in find_runs_here(processes)] == [run.run_dir.path]
    (processes / "7" / "cmdline").write_bytes(b"ray::ControllerActor\0")
    assert find_runs_here(processes) == []


def test_without_a_name_they_are_told_of_this_machine(run: WrittenRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain_module, "find_runs_here", lambda: [run.run_dir])
    told(None, Path("nowhere"))
    assert run.run_dir.drained_nodes() == {socket.gethostname(): 130.0}


def test_a_machine_without_ranks_may_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain_module, "find_runs_here", list)
    assert told(None, Path("nowhere")) == "no run has ranks on this machine\n"


def test_another_node_needs_a_run() -> None:
    with pytest.raises(BadInput, match="which run"):
        told(None, Path("nowhere"), "10.0.0.2")
