"""`longhaul chaos` as people call it: on this machine, and on hosts made of it."""

import json
import signal
import sys
from pathlib import Path

import pytest

from cluster.hosts import refuse_what_cannot_work
from launch.chaos.hosts import Hosts
from launch.chaos.watch import Process
from orchestrator.config.load import load_config
from orchestrator.core.errors import BadInput
from tests.integration.conftest import Bench
from tests.integration.test_faults import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SETS = ("train.steps=240", "checkpoint.every_steps=60", "evaluate.every_steps=null", "checkpoint.snapshot_every=2")
FAULTS = "kill rank 1 @ 20; nan @ 80; kill scribe @ 110; stop rank 0 @ 130; kill controller @ 190"
ON_HOSTS = ("cluster.nodes.min=1", "cluster.nodes.max=2", "cluster.ranks_per_node=1")
OF_NODES = "kill node 1 @ 30; add node @ 60; cut node 0 @ 150 for 1s"


def can_have_hosts() -> bool:
    try:
        refuse_what_cannot_work(3)
    except BadInput:
        return False
    return True


needs_hosts = pytest.mark.skipif(not can_have_hosts(), reason="hosts need root and namespaces")


def test_every_kind_of_fault_on_one_machine_and_not_one_sample_lost(bench: Bench) -> None:
    done = bench.longhaul("chaos", str(bench.config), "name=struck", *SETS, "--faults", FAULTS, "--json", timeout_s=600)
    verdict = json.loads(done.stdout)
    assert (done.returncode, verdict["verdict"], verdict["problems"]) == (0, "pass", [])
    assert (verdict["ledger_equal"], verdict["loss_max_diff"], verdict["weights_equal"]) == (True, 0.0, True)
    assert [one["fault"] for one in verdict["faults"]] == FAULTS.split("; ")
    assert not bench.path("struck-chaos").exists()


def test_what_cannot_be_is_refused_and_leaves_nothing(bench: Bench) -> None:
    refused = bench.longhaul("chaos", str(bench.config), "name=refused", "--faults", "kill rank 7 @ 20")
    assert refused.returncode == 2
    assert "ranks 0 to 1" in refused.stderr
    assert not bench.path("refused-chaos").exists()


@needs_hosts
def test_nodes_go_and_come_and_not_one_sample_is_lost(bench: Bench) -> None:
    sets = ("name=nodes", *SETS, *ON_HOSTS)
    done = bench.longhaul("chaos", str(bench.config), *sets, "--faults", OF_NODES, "--json", timeout_s=800)
    verdict = json.loads(done.stdout)
    assert (done.returncode, verdict["verdict"], verdict["problems"]) == (0, "pass", [])
    assert (verdict["ledger_equal"], verdict["weights_equal"]) == (True, True)


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
