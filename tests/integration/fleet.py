"""A cluster of hosts for drills, and the runs on it: how they are begun, struck, awaited and compared."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.hosts import Cluster, Host
from launch.chaos.compare import largest_weight_difference
from orchestrator.core.words import ExitCode
from orchestrator.storage.lines import read_lines
from orchestrator.tracking.journal import read_events
from orchestrator.tracking.now import read_now
from orchestrator.tracking.rundir import RunDir
from tests.integration.conftest import Bench
from tests.integration.remains import assert_nothing_remains
from tests.integration.test_faults import wait_until

ON_FLEET = [  # marks of the drills
    pytest.mark.timeout(300, func_only=True),
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0, reason="hosts are made of namespaces, which needs root"),
]
HEARTBEAT_S = 2.0
STEPS = 160
LOSSES_APART, WEIGHTS_APART = 1e-4, 1e-3  # where worlds of other sizes have summed in another order
ENDLESS = ("train.steps=20000",)  # for what takes as long as nodes take to come
Event = dict[str, Any]


@dataclass(frozen=True)
class Voyage:
    """A run on the fleet."""

    cluster: Cluster
    path: Path
    command: Any
    log: Path

    # ---- what is seen of it ----

    def events(self, kind: str) -> list[Event]:
        return [event for event in read_events(self.path / "events") if event["event"] == kind]

    def events_of(self, generation: int) -> list[Event]:
        return [event for event in read_events(self.path / "events") if event["generation"] == generation]

    def rows(self, file: str = "metrics.jsonl") -> dict[int, dict[str, Any]]:
        """The last row of each step."""
        path = self.path / file
        rows = read_lines(path) if path.exists() else []
        return {row["step"]: row for row in rows if "step" in row and "kind" not in row}

    def count_replayed(self) -> int:
        """Steps that the newest world did again, by the rows of those before it."""
        started = self.started
        steps = [row for row in read_lines(self.path / "metrics.jsonl") if "step" in row and "kind" not in row]
        before = [row["step"] + 1 for row in steps if row["generation"] < started["generation"]]
        return int(max(before) - started["step"])

    def ledger(self) -> list[tuple[Any, ...]]:
        rows = self.rows("ledger.jsonl")
        return [tuple(rows[step][name] for name in ("order_digest", "set_digest", "count")) for step in sorted(rows)]

    def losses(self) -> torch.Tensor:
        rows = self.rows()
        return torch.tensor([rows[step]["loss"] for step in sorted(rows)], dtype=torch.float64)

    @property
    def started(self) -> Event:
        return self.events("started")[-1]

    def pid_of(self, rank: int) -> int:
        pid: int = self.started["ranks"][rank]["pid"]
        return pid

    def host_of(self, rank: int) -> Host:
        """Nodes are known by their addresses."""
        address = self.started["ranks"][rank]["node"]
        return next(host for host in self.cluster.hosts if host.address == address)

    def find_spare(self, host: Host) -> int:
        """The process that stands by there, once it is warm."""

        seated = {rank["pid"] for rank in self.started["ranks"] if rank["node"] == host.address}

        def find() -> list[int]:
            now = read_now(self.path)
            ranks = now.ranks if now is not None else []
            there = [one.pid for one in ranks if one.host == host.address and one.state == "ready"]
            return [pid for pid in there if pid not in seated]

        self._wait(find)
        return find()[0]

    def find_vault(self, host: Host) -> int:
        log = self.path / "logs" / f"vault-{host.address}.log"
        return int(host.run([sys.executable, "-m", "launch.chaos.find", str(log)]).stdout)

    # ---- what is done to it ----

    def kill(self, rank: int, how: signal.Signals = signal.SIGKILL) -> None:
        send(self.host_of(rank), self.pid_of(rank), how)

    # ---- what is waited for ----

    def wait_for_step(self, step: int) -> None:
        self._wait(lambda: max(self.rows(), default=-1) >= step)

    def wait_for(self, kind: str, count: int = 1) -> Event:
        """The newest event of that kind, when there are so many."""
        self._wait(lambda: len(self.events(kind)) >= count)
        return self.events(kind)[-1]

    def _wait(self, condition: Callable[[], object]) -> None:
        wait_until(lambda: condition() or self.command.poll() is not None, timeout_s=120.0)
        assert condition(), self.log.read_text()

    def end(self, exit_code: int = 0) -> None:
        assert self.command.wait(timeout=180) == exit_code, self.log.read_text()
        assert_nothing_remains(self.cluster, self.path)


@dataclass(frozen=True)
class Fleet:
    """h1 is the head and trains nothing; h2 to h4 train; h5 has no Ray until somebody starts it."""

    cluster: Cluster
    bench: Bench

    def run(self, name: str, *sets: str) -> Voyage:
        settings = [
            f"name={name}", f"root={self.cluster.shared / 'runs'}", f"cluster.address={self.cluster.ray_address}",
            f"data.train.0.path={self.bench.folder / 'shards'}", f"data.work={self.bench.folder / 'work'}",
            f"train.steps={STEPS}", "schedule.name=constant", "evaluate.every_steps=null",
            "checkpoint.every_steps=100", "data.ledger=digest",
            "checkpoint.snapshot_every=4", f"elastic.heartbeat_timeout_s={HEARTBEAT_S}", "elastic.lease_s=6",
            "cluster.ranks_per_node=1", "cluster.nodes.min=1", "cluster.nodes.max=3",
        ]  # fmt: skip
        command = ["run", str(self.bench.config), *settings, *sets]
        log = self.bench.folder / f"{name}.log"
        return Voyage(self.cluster, self.cluster.shared / "runs" / name, self.start("h1", command, log), log)

    def run_calmly(self) -> Voyage:
        """What others are compared with."""
        calm = self.run("calm", "cluster.nodes.min=3")
        calm.end()
        assert len(calm.events("started")) == 1, "it was not calm"
        return calm

    def start(self, host: str, arguments: Sequence[str], log: Path) -> Any:
        command = [sys.executable, "-m", "launch.cli", *arguments]
        with log.open("wb") as file:
            return self.cluster.host(host).start(command, env={"COLUMNS": "120"}, stdout=file, stderr=file)

    def longhaul(self, *arguments: str) -> Any:
        command = [sys.executable, "-m", "launch.cli", *arguments]
        return self.cluster.host("h1").run(command, timeout_s=120)


@contextmanager
def open_fleet(bench: Bench, folder: str) -> Iterator[Fleet]:
    """`folder`: of its runs, in that of the bench, which other fleets may have, too."""
    with Cluster.start(hosts=5, shared=bench.folder / folder, visible=[bench.folder]) as cluster:
        cluster.start_ray(cpus=1, head_cpus=0, hosts=4, dashboard=False)
        yield Fleet(cluster, bench)


def send(host: Host, pid: int, how: signal.Signals) -> None:
    host.run(["kill", f"-{how.name.removeprefix('SIG')}", str(pid)])


def assert_nothing_lost(fleet: Fleet, voyage: Voyage, calm: Voyage) -> None:
    """Also of a run that went on for longer."""
    assert voyage.ledger()[:STEPS] == calm.ledger(), "other samples were fed"
    is_same_world = {event["world_size"] for event in (*calm.events("started"), *voyage.events("started"))} == {3}
    torch.testing.assert_close(
        voyage.losses()[:STEPS], calm.losses(), rtol=0.0 if is_same_world else LOSSES_APART, atol=0.0
    )
    if len(voyage.losses()) == STEPS:
        apart = largest_weight_difference(RunDir(voyage.path), RunDir(calm.path))
        assert apart <= (0.0 if is_same_world else WEIGHTS_APART), f"final weights are {apart:.3g} apart"
    proof = fleet.longhaul("verify", str(voyage.path))
    assert proof.returncode == 0, proof.stdout + proof.stderr


def stop(fleet: Fleet, voyage: Voyage) -> None:
    """A run that has come as far as the calm one, and a little further in its last world."""
    voyage.wait_for_step(max(STEPS, voyage.started["step"] + 8))
    stopped = fleet.longhaul("stop", str(voyage.path))
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    voyage.end(ExitCode.STOPPED)


def recovered_in(voyage: Voyage, struck: float, training: int) -> float:
    """Seconds from the blow to the beginning of the next step in the `training`th world."""
    return float(voyage.wait_for("training", training)["t"]) - struck
