"""Faults on a cluster of several hosts: every one of them costs a moment, and not one sample."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.hosts import Cluster, Host
from orchestrator.core.words import ExitCode
from orchestrator.storage.lines import read_lines
from orchestrator.tracking.journal import read_events
from tests.integration.conftest import Bench
from tests.integration.test_faults import wait_until

pytestmark = [
    pytest.mark.timeout(300, func_only=True),
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0, reason="hosts are made of namespaces, which needs root"),
]

HEARTBEAT_S = 2.0
STEPS = 160
ENDLESS = ("train.steps=20000",)  # for what takes as long as nodes take to come
Event = dict[str, Any]


@dataclass(frozen=True)
class Fleet:
    """h1 is the head and trains nothing; h2 to h4 train; h5 has no Ray until somebody starts it."""

    cluster: Cluster
    bench: Bench

    def run(self, name: str, *sets: str) -> "Voyage":
        settings = [
            f"name={name}", f"root={self.cluster.shared / 'runs'}", f"cluster.address={self.cluster.ray_address}",
            f"data.train.0.path={self.bench.folder / 'shards'}", f"data.work={self.bench.folder / 'work'}",
            f"train.steps={STEPS}", "schedule.name=constant", "evaluate.every_steps=null",
            "checkpoint.every_steps=100", "data.ledger=digest",
            "checkpoint.snapshot_every=4", f"elastic.heartbeat_timeout_s={HEARTBEAT_S}", "elastic.lease_s=6",
            "cluster.ranks_per_node=1", "cluster.nodes.min=1", "cluster.nodes.max=3",
        ]  # fmt: skip
        command = [sys.executable, "-m", "launch.cli", "run", str(self.bench.config), *settings, *sets]
        log = self.bench.folder / f"{name}.log"
        with log.open("wb") as file:
            process = self.cluster.host("h1").start(command, env={"COLUMNS": "120"}, stdout=file, stderr=file)
        return Voyage(self.cluster, self.cluster.shared / "runs" / name, process, log)

    def longhaul(self, *arguments: str) -> Any:
        command = [sys.executable, "-m", "launch.cli", *arguments]
        return self.cluster.host("h1").run(command, timeout_s=120)


@dataclass(frozen=True)
class Voyage:
    """A run on the fleet."""

    cluster: Cluster
    path: Path
    command: Any
    log: Path

    def events(self, kind: str) -> list[Event]:
        return [event for event in read_events(self.path / "events") if event["event"] == kind]

    def rows(self, file: str = "metrics.jsonl") -> dict[int, dict[str, Any]]:
        """The last row of each step."""
        path = self.path / file
        rows = read_lines(path) if path.exists() else []
        return {row["step"]: row for row in rows if "step" in row and "kind" not in row}

    def ledger(self) -> list[tuple[Any, ...]]:
        rows = self.rows("ledger.jsonl")
        return [tuple(rows[step][name] for name in ("order_digest", "set_digest", "count")) for step in sorted(rows)]

    def losses(self) -> torch.Tensor:
        rows = self.rows()
        return torch.tensor([rows[step]["loss"] for step in sorted(rows)], dtype=torch.float64)

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

    def kill(self, rank: int, how: signal.Signals = signal.SIGKILL) -> None:
        self.host_of(rank).run(["kill", f"-{how.name.removeprefix('SIG')}", str(self.pid_of(rank))])


@pytest.fixture(scope="module")
def fleet(bench: Bench) -> Iterator[Fleet]:
    with Cluster.start(hosts=5, shared=bench.folder / "fleet", visible=[bench.folder]) as cluster:
        cluster.start_ray(cpus=1, head_cpus=0, hosts=4, dashboard=False)
        yield Fleet(cluster, bench)


@pytest.fixture(scope="module")
def calm(fleet: Fleet) -> Voyage:
    voyage = fleet.run("calm", "cluster.nodes.min=3")
    voyage.end()
    assert len(voyage.events("started")) == 1
    return voyage


def assert_nothing_lost(fleet: Fleet, voyage: Voyage, calm: Voyage) -> None:
    """Also of a run that went on for longer."""
    assert voyage.ledger()[:STEPS] == calm.ledger()
    torch.testing.assert_close(voyage.losses()[:STEPS], calm.losses(), rtol=1e-4, atol=0)
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


def processes_of(host: Host, run: Path) -> list[str]:
    """Ranks, vaults, nurseries and actors of the run that live on a host."""
    lines = host.run(["ps", "-eo", "pid,args"], timeout_s=30).stdout.splitlines()
    return [line for line in lines if str(run) in line or run.name in line or "orchestrator.control.nursery" in line]


# ---- ranks ----


def test_a_killed_rank_is_replaced_by_a_spare(fleet: Fleet, calm: Voyage) -> None:
    voyage = fleet.run("rank-killed", "cluster.nodes.min=3")
    voyage.wait_for_step(20)
    voyage.kill(1)
    struck = time.time()
    took_s = recovered_in(voyage, struck, training=2)
    voyage.end()
    fault, (first, second) = voyage.events("fault")[0], voyage.events("started")
    assert (fault["kind"], fault["culprits"]) == ("rank", [1])
    assert second["world_size"] == 3
    assert fault["step"] - second["step"] <= 8  # a snapshot every 4 steps, of which the last may not be whole yet
    survivors = {(rank["node"], rank["pid"]) for rank in first["ranks"]} & {
        (rank["node"], rank["pid"]) for rank in second["ranks"]
    }
    assert len(survivors) == 2  # the same processes
    print(f"recovered in {took_s:.3f} s")
    assert_nothing_lost(fleet, voyage, calm)


@pytest.mark.long
def test_a_stopped_rank_is_found_ended_and_replaced(fleet: Fleet, calm: Voyage) -> None:
    voyage = fleet.run("rank-stopped", "cluster.nodes.min=3")
    voyage.wait_for_step(20)
    voyage.kill(2, signal.SIGSTOP)
    took_s = recovered_in(voyage, time.time(), training=2)
    voyage.end()
    [fault] = voyage.events("fault")
    assert (fault["kind"], fault["culprits"]) == ("stuck", [2])
    assert "stopped" in fault["reason"]
    print(f"recovered in {took_s:.3f} s")
    assert_nothing_lost(fleet, voyage, calm)


# ---- nodes ----


def test_a_killed_node_is_done_without_and_joins_again_when_it_is_back(fleet: Fleet, calm: Voyage) -> None:
    voyage = fleet.run("node-killed", *ENDLESS)
    voyage.wait_for_step(20)
    host = voyage.host_of(2)
    struck = time.time()
    host.kill()
    took_s = recovered_in(voyage, struck, training=2)
    print(f"recovered in {took_s:.3f} s")
    assert voyage.events("fault")[-1]["kind"] == "node"
    assert voyage.started["world_size"] == 2
    assert voyage.started["snapshot"] is not None  # from memory: the buddy has what the node had
    host.boot()
    host.start_ray(cpus=1, dashboard=False)
    joined = voyage.wait_for("training", 3)
    assert voyage.started["world_size"] == 3
    assert voyage.started["why"] == "resize"
    left = voyage.events("leaving")[-1]
    print(f"joined with a pause of {joined['t'] - left['t']:.3f} s")
    stop(fleet, voyage)
    assert_nothing_lost(fleet, voyage, calm)


def test_a_node_that_is_cut_off_stops_itself_while_the_others_go_on(fleet: Fleet, calm: Voyage) -> None:
    voyage = fleet.run("cut-off", "cluster.nodes.max=3")
    voyage.wait_for_step(20)
    host = voyage.host_of(2)
    struck = time.time()
    host.cut()
    try:
        took_s = recovered_in(voyage, struck, training=2)
        print(f"recovered in {took_s:.3f} s")
        wait_until(lambda: not processes_of(host, voyage.path), timeout_s=30.0)
    finally:
        host.mend()
    voyage.end()
    assert voyage.events("fault")[0]["kind"] == "node"
    assert_nothing_lost(fleet, voyage, calm)


@pytest.mark.long
def test_a_frozen_node_is_done_without(fleet: Fleet, calm: Voyage) -> None:
    voyage = fleet.run("frozen")
    voyage.wait_for_step(20)
    host = voyage.host_of(1)
    struck = time.time()
    host.freeze()
    try:
        took_s = recovered_in(voyage, struck, training=2)
    finally:
        host.thaw()
    print(f"recovered in {took_s:.3f} s")
    voyage.end()
    assert_nothing_lost(fleet, voyage, calm)


@pytest.mark.long
def test_a_node_and_its_buddy_lost_together_cost_the_steps_since_the_last_checkpoint(
    fleet: Fleet, calm: Voyage
) -> None:
    voyage = fleet.run("two-nodes-killed", "checkpoint.every_steps=25")
    voyage.wait_for_step(30)
    lost = [voyage.host_of(1), voyage.host_of(2)]
    for host in lost:
        host.kill()
    try:
        voyage.wait_for("training", 2)
        assert voyage.started["world_size"] == 1
        assert voyage.started["snapshot"] is None
        assert voyage.started["step"] % 25 == 0
        voyage.end()
    finally:
        for host in lost:
            host.boot()
            host.start_ray(cpus=1, dashboard=False)
    assert_nothing_lost(fleet, voyage, calm)


@pytest.mark.long
def test_a_spare_node_takes_the_place_of_a_killed_one(fleet: Fleet, calm: Voyage) -> None:
    voyage = fleet.run("spare-node", "cluster.nodes.min=2", "cluster.nodes.max=2", "cluster.spare_nodes=1", *ENDLESS)
    voyage.wait_for_step(20)
    voyage.wait_for("node_joined", 3)
    host = voyage.host_of(1)
    struck = time.time()
    host.kill()
    try:
        took_s = recovered_in(voyage, struck, training=2)
        print(f"recovered in {took_s:.3f} s")
        assert voyage.started["world_size"] == 2
        stop(fleet, voyage)
    finally:
        host.boot()
        host.start_ray(cpus=1, dashboard=False)
    assert_nothing_lost(fleet, voyage, calm)


def test_a_node_that_is_to_be_taken_away_is_left_at_a_step_boundary(fleet: Fleet, calm: Voyage) -> None:
    voyage = fleet.run("drained", "cluster.nodes.max=3")
    voyage.wait_for_step(20)
    address = voyage.started["ranks"][2]["node"]
    drained = fleet.longhaul("drain", str(voyage.path), "--node", address, "--grace", "30")
    assert drained.returncode == 0, drained.stdout + drained.stderr
    voyage.wait_for("training", 2)
    assert voyage.started["world_size"] == 2
    assert address not in {rank["node"] for rank in voyage.started["ranks"]}
    assert not voyage.events("fault")
    assert voyage.started["step"] == voyage.events("left")[-1]["step"]  # nothing is done twice
    wait_until(lambda: voyage.events("node_released"))
    voyage.end()
    assert_nothing_lost(fleet, voyage, calm)


# ---- faults during faults ----


def test_a_second_rank_killed_while_the_world_forms_anew_costs_no_more(fleet: Fleet, calm: Voyage) -> None:
    voyage = fleet.run("killed-twice", "cluster.nodes.min=3")
    voyage.wait_for_step(20)
    voyage.kill(0)
    voyage.wait_for("started", 2)
    voyage.kill(1)
    voyage.wait_for("fault", 2)
    voyage.end()
    assert_nothing_lost(fleet, voyage, calm)


def test_the_controller_killed_while_the_world_forms_anew_is_replaced(fleet: Fleet, calm: Voyage) -> None:
    voyage = fleet.run("controller-too", "cluster.nodes.min=3", "elastic.lease_s=20")
    voyage.wait_for_step(20)
    voyage.kill(1)
    fault = voyage.wait_for("fault")
    fleet.cluster.host("h1").run(["kill", "-KILL", str(fault["pid"])])
    voyage.wait_for("training", 2)
    voyage.end()
    assert_nothing_lost(fleet, voyage, calm)
