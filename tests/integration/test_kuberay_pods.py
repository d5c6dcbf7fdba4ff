"""What the manifests have pods do, on hosts in their place: the entrypoint as a Ray job, the hooks before they go."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.hosts import Cluster, Host, refuse_what_cannot_work
from orchestrator.core.errors import BadInput
from tests.integration.conftest import Bench
from tests.integration.test_faults import wait_until
from tests.integration.test_resume import wait_for_step

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

JOB = yaml.safe_load((Path(__file__).parents[2] / "cluster" / "kuberay" / "rayjob.yaml").read_text())["spec"]
HEAD, [WORKER] = JOB["rayClusterSpec"]["headGroupSpec"], JOB["rayClusterSpec"]["workerGroupSpecs"]
BIN = Path(sys.executable).parent
ENV = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": 64 * "7", "NETRC": "/nonexistent", "RAY_DISABLE_USAGE_STATS": "1"}


@dataclass(frozen=True)
class Pod:
    """A host that runs what a pod of this group runs."""

    host: Host
    group: dict[str, Any]

    def start_ray(self, *options: str) -> subprocess.Popen[str]:
        params = [f"--{name}={value}" for name, value in self.group["rayStartParams"].items()]
        command = [str(BIN / "ray"), "start", "--block", "--dashboard-agent-listen-port=0", *params, *options]
        return self.host.start(command, env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def begin_to_go(self) -> subprocess.Popen[str]:
        """Kubernetes runs this hook, and sends signals only after it."""
        [container] = self.group["template"]["spec"]["containers"]
        path = f"{BIN}:{os.environ['PATH']}"
        return self.host.start(container["lifecycle"]["preStop"]["exec"]["command"], env={"PATH": path})


@pytest.fixture
def pods(bench: Bench) -> Iterator[tuple[Pod, Pod]]:
    try:
        refuse_what_cannot_work(hosts=2)
    except BadInput as problem:
        pytest.skip(problem.message)
    with Cluster.start(hosts=2, shared=bench.folder) as cluster:
        head, worker = Pod(cluster.hosts[0], HEAD), Pod(cluster.hosts[1], WORKER)
        head.start_ray("--head", "--include-dashboard=true")
        wait_until(lambda: jobs(head, "list").returncode == 0)
        worker.start_ray(f"--address={head.host.address}:6379", "--num-cpus=2")
        yield head, worker


def jobs(head: Pod, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "ray"), "job", arguments[0], "--address=http://127.0.0.1:8265", *arguments[1:]]
    return head.host.run(command, env=ENV, timeout_s=60)


def submit(head: Pod, bench: Bench, name: str) -> None:
    """As KubeRay's submitter does; the entrypoint with another volume and a smaller config."""
    entrypoint = JOB["entrypoint"].replace("/mnt/longhaul/config.yaml", str(bench.config))
    words = entrypoint.replace("/mnt/longhaul", str(bench.folder)).split()
    words[0] = str(BIN / words[0])
    sets = ["name=evicted", "cluster.ranks_per_node=2", "train.steps=300"]
    submitted = jobs(head, "submit", "--no-wait", f"--submission-id={name}", "--", *words, *sets)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr


@pytest.mark.long
def test_a_run_whose_pods_go_ends_with_a_checkpoint_and_the_next_attempt_goes_on(
    bench: Bench, pods: tuple[Pod, Pod]
) -> None:
    head, worker = pods
    submit(head, bench, "first")
    wait_for_step(bench, "evicted", 8)
    assert [hook.wait(timeout=60) for hook in (worker.begin_to_go(), head.begin_to_go())] == [0, 0]
    [stop] = bench.events("evicted", "stopped")
    assert stop["exit_code"] == 75
    wait_until(lambda: "exit code 75" in jobs(head, "status", "first").stdout)  # so KubeRay begins another attempt
    submit(head, bench, "second")
    wait_until(lambda: "succeeded" in jobs(head, "status", "second").stdout, timeout_s=120)
    first, second = bench.events("evicted", "started")
    assert second["checkpoint"] == f"step-{stop['step']:08}-g0001"
    assert {rank["node"] for rank in first["ranks"]} == {worker.host.address}
    assert bench.longhaul("verify", "evicted").returncode == 0


def test_pods_without_a_run_go_at_once(pods: tuple[Pod, Pod]) -> None:
    assert [pod.begin_to_go().wait(timeout=10) for pod in pods] == [0, 0]
