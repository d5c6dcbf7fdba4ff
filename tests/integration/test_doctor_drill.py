"""The doctor on a cluster of hosts that is broken in one way after another: each is found, and named with its node."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import orchestrator
from cluster.hosts import Cluster, Host
from launch.checks.check import Check, Checkup

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0, reason="hosts of the cluster need root"),
]

LOOK = (
    "import sys, json; from pathlib import Path; from launch.checks.cluster import check_cluster;"
    "print(json.dumps(check_cluster(sys.argv[1], Path(sys.argv[2])).to_json()))"
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster.start(hosts=3, shared=tmp_path_factory.mktemp("shared")) as hosts:
        hosts.start_ray(cpus=2, dashboard=False)
        yield hosts


def look(cluster: Cluster, root: Path) -> Checkup:
    command = [sys.executable, "-c", LOOK, cluster.ray_address, str(root)]
    done = cluster.hosts[0].run(command, timeout_s=200.0)
    assert done.returncode == 0, done.stderr
    return Checkup.from_json(json.loads(done.stdout.splitlines()[-1]))


def problems(checks: list[Check]) -> dict[str, str]:
    return {check.what: check.detail for check in checks if check.level == "problem"}


def break_host(host: Host, *command: str) -> None:
    done = host.run(command, timeout_s=10.0)
    assert done.returncode == 0, done.stderr


def test_a_sound_cluster_has_no_problem_and_nothing_is_left_behind(cluster: Cluster) -> None:
    checkup = look(cluster, cluster.shared / "runs")
    assert list(checkup.nodes) == ["h1", "h2", "h3"]
    assert problems(list(checkup.all())) == {}
    assert {check.what for check in checkup.across} >= {"same versions", "same root", "clocks", "connections"}
    assert list(cluster.shared.iterdir()) == []


def test_a_root_that_each_node_has_for_itself_is_found(cluster: Cluster) -> None:
    root = Path("/tmp/runs")
    for host in cluster.hosts:
        break_host(host, "mkdir", str(root))
    found = problems(look(cluster, root).across)
    assert list(found) == ["same root"]
    assert found["same root"].startswith("/tmp/runs on h2, h3: it does not see what others write there")


def test_a_host_name_that_stands_for_the_loopback_is_found(cluster: Cluster) -> None:
    rename = "sed '/ h2$/d' /etc/hosts > /tmp/hosts && echo '127.0.1.1 h2' >> /tmp/hosts && cat /tmp/hosts > /etc/hosts"
    break_host(cluster.host("h2"), "cp", "/etc/hosts", "/tmp/hosts.sound")
    break_host(cluster.host("h2"), "sh", "-c", rename)
    found = problems(look(cluster, cluster.shared).across)
    break_host(cluster.host("h2"), "sh", "-c", "cat /tmp/hosts.sound > /etc/hosts")
    assert list(found) == ["host names"]
    assert "of h2 stands for 127.0.1.1" in found["host names"]


def test_ports_that_are_closed_between_two_nodes_are_found(cluster: Cluster) -> None:
    rule = ("to", cluster.host("h2").address, "ipproto", "tcp", "dport", "1024-65534", "unreachable")
    break_host(cluster.host("h3"), "ip", "rule", "add", *rule)
    found = problems(look(cluster, cluster.shared).across)
    break_host(cluster.host("h3"), "ip", "rule", "del", *rule)
    assert list(found) == ["connections"]
    assert found["connections"].startswith("h2 does not reach h3 and is not reached from h3: ")  # no answer comes back


def test_a_node_without_longhaul_and_one_that_is_cut_off_are_told_and_the_others_looked_at(cluster: Cluster) -> None:
    package = Path(orchestrator.__file__ or "").parent
    break_host(cluster.host("h2"), "mount", "-t", "tmpfs", "none", str(package))
    cluster.host("h3").cut()
    checkup = look(cluster, cluster.shared)
    assert problems(checkup.nodes["h1"]) == {}
    assert "No module named 'orchestrator" in problems(checkup.nodes["h2"])["answer"]
    assert list(problems(checkup.nodes["h3"])) == ["answer"]
