"""`longhaul drain`: say that a machine is about to go. A pod's preStop hook says so of its own machine to runs that
have a node actor there; their controllers find the request in the run directories."""

import socket
from contextlib import suppress
from pathlib import Path

from launch.here import find_run
from launch.screen import Screen
from orchestrator.core.clock import Clock
from orchestrator.core.errors import BadInput
from orchestrator.tracking.rundir import RunDir

_NODE_ACTOR = b"ray::NodeActor"  # as Ray calls the process


def drain(name: str | None, root: Path, node: str | None, grace_s: float, *, clock: Clock, screen: Screen) -> None:
    if name is None and node is not None:
        raise BadInput("which run is to leave this node?", where=node, remedy="longhaul drain RUN --node HOST")
    runs = [find_run(name, root)] if name is not None else find_runs_here()
    host = node or socket.gethostname()
    for run in runs:
        run.ask_to_drain(host, clock, grace_s=grace_s)
        screen.say(f"asked {run.path} to leave {host}")
    if not runs:
        screen.say("no run has ranks on this machine")


def find_runs_here(processes: Path = Path("/proc")) -> list[RunDir]:
    """What a node actor prints goes into the logs of its run."""
    found = set()
    for process in processes.glob("[0-9]*"):
        with suppress(OSError):  # it has just ended, or is somebody else's
            if (process / "cmdline").read_bytes().startswith(_NODE_ACTOR):
                found.add((process / "fd" / "1").readlink().parents[1])
    return [RunDir(path) for path in sorted(found) if (path / "config.yaml").is_file()]
