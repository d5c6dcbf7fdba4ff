"""Rarer faults on a cluster of several hosts: of what stands between ranks and controller, and faults during faults."""

import signal
import time
from dataclasses import replace

import pytest

from cluster.hosts import Host
from cluster.hosts.raynode import GCS_PORT
from orchestrator.core.clock import SystemClock
from orchestrator.core.words import ExitCode
from orchestrator.tracking.lease import read_lease
from orchestrator.tracking.rundir import RunDir
from tests.integration.fleet import (
    ENDLESS,
    ON_FLEET,
    Fleet,
    Voyage,
    assert_nothing_lost,
    recovered_in,
    send,
    stop,
)
from tests.integration.test_faults import wait_until

OVERTAKEN = "another controller has taken over"  # in the log

pytestmark = ON_FLEET


# ---- what a node has beside its ranks ----


def test_a_killed_node_actor_takes_its_ranks_with_it_and_its_node_comes_back_in(fleet: Fleet, calm: Voyage) -> None:
    voyage = fleet.run("node-actor-killed", *ENDLESS)
    voyage.wait_for_step(20)
    host, rank, node_actor = voyage.host_of(1), voyage.pid_of(1), voyage.started["node_pids"][1]
    struck = time.time()
    send(host, node_actor, signal.SIGKILL)
    print(f"recovered in {recovered_in(voyage, struck, training=2):.3f} s")
    assert voyage.events("fault")[0]["kind"] == "node"
    assert voyage.started["world_size"] == 2
    assert voyage.started["snapshot"] is not None  # from memory: the buddy has what the node had
    wait_until(lambda: not is_alive(host, rank))
    voyage.wait_for("training", 3)
    assert voyage.started["why"] == "resize"
    assert host.address in {rank["node"] for rank in voyage.started["ranks"]}
    stop(fleet, voyage)
    assert_nothing_lost(fleet, voyage, calm)


def test_a_killed_raylet_takes_its_ranks_with_it_and_a_new_one_comes_in(fleet: Fleet, calm: Voyage) -> None:
    voyage = fleet.run("raylet-killed", *ENDLESS)
    voyage.wait_for_step(20)
    host, rank = voyage.host_of(2), voyage.pid_of(2)
    struck = time.time()
    send(host, find_raylet(host), signal.SIGKILL)
    print(f"recovered in {recovered_in(voyage, struck, training=2):.3f} s")
    assert voyage.events("fault")[0]["kind"] == "node"
    assert voyage.started["world_size"] == 2
    assert voyage.started["snapshot"] is not None
    wait_until(lambda: not is_alive(host, rank))
    wait_until(lambda: host.run(["pgrep", "-f", "ray.scripts"]).returncode == 1)  # the rest of that Ray
    host.start_ray(cpus=1, dashboard=False)
    voyage.wait_for("training", 3)
    assert host.address in {rank["node"] for rank in voyage.started["ranks"]}
    stop(fleet, voyage)
    assert_nothing_lost(fleet, voyage, calm)


def find_raylet(host: Host) -> int:
    return int(host.run(["ps", "-C", "raylet", "-o", "pid="]).stdout)


def is_alive(host: Host, pid: int) -> bool:
    return host.run(["kill", "-0", str(pid)]).returncode == 0


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


def test_a_rank_killed_while_it_reads_its_state_costs_no_more(fleet: Fleet, calm: Voyage) -> None:
    """The new world waits for a rank that is stopped until a vault is, too: so it comes as far as reading from it."""
    voyage = fleet.run(
        "killed-restoring", "cluster.nodes.min=3", "elastic.heartbeat_timeout_s=30", "elastic.lease_s=60"
    )
    voyage.wait_for_step(20)
    struck, vault_host = voyage.host_of(1), voyage.host_of(2)
    spare, vault = voyage.find_spare(struck), voyage.find_vault(vault_host)
    send(struck, spare, signal.SIGSTOP)
    voyage.kill(1)
    voyage.wait_for("started", 2)
    assert voyage.pid_of(1) == spare
    port, reader = port_of(vault_host, vault), voyage.host_of(0)
    send(vault_host, vault, signal.SIGSTOP)
    try:
        before = peers_of(vault_host, port)
        send(struck, spare, signal.SIGCONT)
        wait_until(lambda: reader.address in {peer.rpartition(":")[0] for peer in peers_of(vault_host, port) - before})
        voyage.kill(0)
        voyage.wait_for("fault", 2)
    finally:
        send(vault_host, vault, signal.SIGCONT)
    voyage.end()
    assert len(voyage.events("training")) == 2  # the world that was struck never came to it
    first, second = voyage.events("started")[1:]
    assert first["snapshot"] == second["snapshot"] is not None
    assert [fault["culprits"] for fault in voyage.events("fault")] == [[1], [0]]
    assert_nothing_lost(fleet, voyage, calm)


def port_of(host: Host, pid: int) -> int:
    """Where that process listens."""
    lines = host.run(["ss", "-Hltnp"]).stdout.splitlines()
    [line] = [line for line in lines if f"pid={pid}," in line and line.count("pid=") == 1]  # others are inherited
    return int(line.split()[3].rpartition(":")[2])


def peers_of(host: Host, port: int) -> set[str]:
    """Address and port of all that are connected there."""
    lines = host.run(["ss", "-Htn", "state", "established", "sport", "=", f":{port}"]).stdout.splitlines()
    return {line.split()[3] for line in lines}


def test_the_controller_killed_while_the_world_forms_anew_is_replaced(fleet: Fleet, calm: Voyage) -> None:
    voyage = fleet.run("controller-too", "cluster.nodes.min=3", "elastic.lease_s=20")
    voyage.wait_for_step(20)
    voyage.kill(1)
    fault = voyage.wait_for("fault")
    send(fleet.cluster.host("h1"), fault["pid"], signal.SIGKILL)
    voyage.wait_for("training", 2)
    voyage.end()
    assert_nothing_lost(fleet, voyage, calm)


# ---- two controllers ----


@pytest.mark.parametrize("host", ["h1", "h2"])
def test_a_frozen_controller_makes_way_for_that_of_a_resume_on_the_same_cluster(
    fleet: Fleet, calm: Voyage, host: str
) -> None:
    """Whether or not its process can be seen from there. Whoever followed the run is told that it is lost."""
    voyage = fleet.run(f"frozen-controller-{host}", "checkpoint.every_steps=10", *ENDLESS)
    voyage.wait_for_step(20)
    head, run_dir, old = fleet.cluster.host("h1"), RunDir(voyage.path), voyage.started["pid"]
    send(head, old, signal.SIGSTOP)
    wait_until(lambda: run_dir.view().lost(SystemClock()))
    assert voyage.command.wait(timeout=30) == ExitCode.FAILED
    assert "the run is lost" in voyage.log.read_text()
    log = voyage.log.with_suffix(".2.log")
    voyage = replace(voyage, command=fleet.start(host, ["resume", str(voyage.path)], log), log=log)
    voyage.wait_for("training", 2)
    wait_until(lambda: not is_alive(head, old))
    stop(fleet, voyage)
    assert_nothing_lost(fleet, voyage, calm)


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGCONT, signal.SIGKILL], ids=lambda how: how.name)
def test_a_controller_that_comes_back_after_another_has_taken_over_writes_nothing_more(
    fleet: Fleet, calm: Voyage, how: signal.Signals
) -> None:
    """As when the machine of the head was away for a while, and the run goes on in another cluster meanwhile. One that
    was killed is started again by Ray."""
    voyage = fleet.run(f"overtaken-{how.name}", "checkpoint.every_steps=10", *ENDLESS)
    voyage.wait_for_step(20)
    head, other, run_dir = fleet.cluster.host("h1"), fleet.cluster.host("h5"), RunDir(voyage.path)
    old = voyage.started["pid"]
    send(head, old, signal.SIGSTOP)
    try:
        wait_until(lambda: run_dir.view().lost(SystemClock()))
        replace(other, head=other.address).start_ray(cpus=1, dashboard=False)  # a cluster of its own
        address = f"cluster.address={other.address}:{GCS_PORT}"
        log = voyage.log.with_suffix(".2.log")
        command = fleet.start("h5", ["resume", str(voyage.path), address], log)
        voyage = replace(voyage, command=command, log=log)
        voyage.wait_for("training", 2)
        said, leases = voyage.events_of(1), {generation_of_lease(run_dir)}
        log = run_dir.logs / "controller.log"
        send(head, old, how)
        while OVERTAKEN not in log.read_text() or is_alive(head, old):  # within the limit of the test
            leases.add(generation_of_lease(run_dir))
        stop(fleet, voyage)
        assert leases == {2}
        assert voyage.events_of(1) == said
        assert {event["host"] for event in voyage.events("claimed")[1:]} == {"h5"}
    finally:
        send(head, old, signal.SIGKILL)
        other.kill()
        other.boot()
    assert_nothing_lost(fleet, voyage, calm)


def generation_of_lease(run_dir: RunDir) -> int:
    lease = read_lease(run_dir.lease)
    assert lease is not None
    return lease.generation
