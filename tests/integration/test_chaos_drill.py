"""`longhaul chaos` as people call it: on this machine, and on hosts made of it."""

import json
import signal
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from cluster.hosts import Cluster, refuse_what_cannot_work
from launch.chaos.hosts import Hosts
from launch.chaos.watch import Process
from orchestrator.config.load import load_config
from orchestrator.core.errors import BadInput
from tests.integration.conftest import Bench
from tests.integration.test_faults import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SETS = ("evaluate.every_steps=null", "checkpoint.snapshot_every=2", "elastic.heartbeat_timeout_s=3")
FAULTS = (
    "kill rank 1 @ 15; nan @ 30; nan once @ 40; kill scribe @ 50; stop rank 0 @ 70; spike @ 90; kill controller @ 105"
)
ON_CLUSTER = "kill rank 1 @ 20; stop rank 0 @ 45; kill controller @ 70; kill scribe @ 95"
ON_HOSTS = ("cluster.nodes.min=1", "cluster.nodes.max=2", "cluster.ranks_per_node=1", "train.steps=1400")
GENTLY = "optim.lr=1e-4"  # else the roundings of another world grow beyond any bound in a thousand steps
OF_NODES = "kill node 1 @ 30; add node @ 31; cut node 1 @ 1300 for 5s"
# longer than rows take to disk
LARGE_STEPS = ("train.global_batch=160", "train.steps=800", "checkpoint.every_steps=50")
SOAK = ("--random", "--seed", "7", "--mtbf", "1s", "--count", "30")


def can_have_hosts() -> bool:
    try:
        refuse_what_cannot_work(3)
    except BadInput:
        return False
    return True


needs_hosts = pytest.mark.skipif(not can_have_hosts(), reason="hosts need root and namespaces")


def test_every_kind_of_fault_on_one_machine_and_not_one_sample_lost(bench: Bench) -> None:
    sets = ("name=struck", *SETS, "train.steps=130", "checkpoint.every_steps=40", "elastic.spike.action=void")
    verdict = break_run(bench, *sets, "--faults", FAULTS)
    assert (verdict["loss_max_diff"], verdict["unbroken_loss_max_diff"]) == (0.0, 0.0)
    assert [one["fault"] for one in verdict["faults"]] == FAULTS.split("; ")
    assert not bench.path("struck-chaos").exists()


def break_run(bench: Bench, *arguments: str) -> dict[str, Any]:
    """The verdict, which must be a good one."""
    done = bench.longhaul("chaos", str(bench.config), *arguments, "--json", timeout_s=800)
    print(done.stderr)
    verdict: dict[str, Any] = json.loads(done.stdout)
    print(json.dumps(verdict, indent=1))
    assert (done.returncode, verdict["verdict"], verdict["problems"]) == (0, "pass", [])
    assert (verdict["ledger_equal"], verdict["weights_equal"]) == (True, True)
    return verdict


@pytest.mark.long
def test_a_run_outlives_thirty_faults_that_chance_has_chosen(bench: Bench) -> None:
    verdict = break_run(bench, "name=soak", *SETS, *LARGE_STEPS, *SOAK)
    assert (verdict["loss_max_diff"], verdict["unbroken_loss_max_diff"]) == (0.0, 0.0)
    assert len(verdict["faults"]) == 30
    recovered = [one["recovery_s"] for one in verdict["faults"] if one["labels"]]
    print(f"{len(recovered)} recoveries, median {median(recovered):.3f} s, longest {max(recovered):.3f} s")


def test_what_cannot_be_is_refused_and_leaves_nothing(bench: Bench) -> None:
    refused = bench.longhaul("chaos", str(bench.config), "name=refused", "--faults", "kill rank 7 @ 20")
    assert refused.returncode == 2
    assert "ranks 0 to 1" in refused.stderr
    assert not bench.path("refused-chaos").exists()


@needs_hosts
def test_on_a_cluster_that_is_there_already_ranks_controller_and_scribe_are_struck(bench: Bench) -> None:
    with Cluster.start(hosts=3, shared=bench.folder / "there", visible=[bench.folder]) as cluster:
        cluster.start_ray(cpus=1, head_cpus=0, hosts=3, dashboard=False)
        sets = (
            *SETS, "name=there", f"root={cluster.shared / 'runs'}", f"cluster.address={cluster.ray_address}",
            f"data.train.0.path={bench.folder / 'shards'}", f"data.work={bench.folder / 'work'}",
            "cluster.nodes.min=2", "cluster.nodes.max=2", "cluster.ranks_per_node=1", "train.steps=120",
        )  # fmt: skip
        command = [sys.executable, "-m", "launch.cli", "chaos", str(bench.config), *sets, "--faults", ON_CLUSTER]
        done = cluster.host("h1").run([*command, "--json"], timeout_s=400)
    verdict = json.loads(done.stdout)
    assert (done.returncode, verdict["problems"]) == (0, []), done.stderr
    assert [one["fault"] for one in verdict["faults"]] == ON_CLUSTER.split("; ")
    assert [bool(one["labels"]) for one in verdict["faults"]] == [True, True, False, False]  # a world was left for it


@pytest.mark.long
@needs_hosts
def test_nodes_go_and_come_and_not_one_sample_is_lost(bench: Bench) -> None:
    sets = ("name=nodes", *SETS, *ON_HOSTS, GENTLY, "checkpoint.every_steps=200")
    verdict = break_run(bench, *sets, "--faults", OF_NODES)
    assert all(one["labels"] for one in verdict["faults"])  # a world was left for each of them


@needs_hosts
def test_processes_of_hosts_are_found_struck_and_gone_with_their_host(bench: Bench, tmp_path: Path) -> None:
    config = load_config(bench.config, [], [f"data.work={tmp_path}/work"]).config
    with Hosts.open(config, tmp_path / "shared", there=1, most=1) as hosts:
        log = tmp_path / "shared" / "scribe.log"
        hosts.start([sys.executable, "-c", "input()"], log)
        wait_until(lambda: hosts.find_actor("h1", log) is None)  # nothing to read: it has ended
        hosts.start(["sleep", "1000"], log)
        found = hosts.find_actor("h1", log)
        assert found is not None
        hosts.send(found, signal.SIGKILL)
        wait_until(lambda: hosts.find_actor("h1", log) is None)
        with pytest.raises(ProcessLookupError):
            hosts.send(Process("h1", found.pid), signal.SIGKILL)
        hosts.kill_node(0)
        with pytest.raises(ProcessLookupError):
            hosts.send(Process("h2", 1), signal.SIGKILL)
        hosts.add_node()
