"""Faults on a cluster of several hosts: every one of them costs a moment, and not one sample."""

import signal
import time
from pathlib import Path

import pytest

from cluster.hosts import Host
from orchestrator.core.words import ExitCode
from tests.integration.fleet import (
    ENDLESS,
    ON_FLEET,
    Fleet,
    Voyage,
    assert_nothing_lost,
    recovered_in,
    stop,
)
from tests.integration.remains import look_at_hosts, look_at_ray
from tests.integration.test_faults import wait_until

pytestmark = ON_FLEET


def processes_of(host: Host, run: Path) -> list[str]:
    """Ranks, vaults, nurseries and actors of the run that live on a host."""
    lines = host.run(["ps", "-eo", "pid,args"], timeout_s=30).stdout.splitlines()
    return [line for line in lines if str(run) in line or run.name in line or "orchestrator.control.nursery" in line]


def test_what_a_run_has_is_seen_while_it_lives(fleet: Fleet) -> None:
    """Else that nothing of it is seen after its end would mean nothing."""
    voyage = fleet.run("seen", *ENDLESS)
    voyage.wait_for("training")
    seen = {one.kind for one in (*look_at_hosts(fleet.cluster, voyage.path), *look_at_ray(fleet.cluster, voyage.path))}
    assert seen == {"process", "memory", "socket", "port", "actor", "group"}
    stopped = fleet.longhaul("stop", "--now", str(voyage.path))
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    voyage.end(ExitCode.STOPPED)


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
    assert 0 <= voyage.count_replayed() <= 5  # a snapshot every 4 steps, and the step that it takes to be whole
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
    assert voyage.events("fault")[0]["kind"] == "node"
    assert voyage.events("started")[1]["world_size"] == 2
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
