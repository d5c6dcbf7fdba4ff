"""The front door from outside: a person at a laptop that sees nothing but the dashboard of a cluster of three hosts."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.hosts import Cluster, Host
from tests.integration.conftest import Bench
from tests.integration.test_faults import wait_until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0, reason="hosts are made of namespaces, which needs root"),
]


@dataclass(frozen=True)
class Laptop:
    """A host without Ray; commands of a person who sits there."""

    cluster: Cluster
    host: Host
    bench: Bench

    @property
    def runs(self) -> Path:
        return self.cluster.shared / "runs"

    def longhaul(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return self.host.run(self._command(arguments), env=self._env() | (env or {}), timeout_s=120)

    def start(self, log: Path, *arguments: str) -> subprocess.Popen[str]:
        with log.open("wb") as file:
            return self.host.start(self._command(arguments), env=self._env(), stdout=file, stderr=file)

    def submit(self, name: str, *sets: str) -> subprocess.CompletedProcess[str]:
        shared = f"cluster.shared={self.cluster.shared}"
        return self.longhaul("submit", str(self.bench.config), f"name={name}", *LOCAL_PATHS(self.bench), shared, *sets)

    def status(self, name: str) -> dict[str, Any]:
        done = self.longhaul("status", name, "--json")
        assert done.returncode == 0, done.stderr
        status: dict[str, Any] = json.loads(done.stdout)
        return status

    def calls(self) -> list[str]:
        """Commands that people elsewhere have running on the cluster."""
        look = (
            "import sys; from launch.remote.dashboard import Dashboard\n"
            "for job in Dashboard(sys.argv[1]).jobs():\n"
            "    print(job.metadata.get('longhaul_call') if job.status == 'RUNNING' else '')"
        )
        return self.host.run([sys.executable, "-c", look, self.cluster.dashboard], timeout_s=60).stdout.split()

    def ledger(self, name: str) -> list[tuple[Any, ...]]:
        lines = [json.loads(line) for line in (self.runs / name / "ledger.jsonl").read_text().splitlines()[1:]]
        rows = {row["step"]: (row["order_digest"], row["set_digest"], row["count"]) for row in lines}
        return [rows[step] for step in sorted(rows)]

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "launch.cli", *arguments]

    def _env(self) -> dict[str, str]:
        return {"COLUMNS": "120", "LONGHAUL_ADDRESS": self.cluster.dashboard}


def LOCAL_PATHS(bench: Bench) -> list[str]:  # noqa: N802
    return [f"data.train.0.path={bench.folder / 'shards'}", f"data.work={bench.folder / 'work'}"]


@pytest.fixture(scope="module")
def laptop(bench: Bench, unbroken: str) -> Iterator[Laptop]:
    """h1 to h3 are the cluster, Ray runs on the first two; h4 is the laptop."""
    with Cluster.start(hosts=4, shared=bench.folder / "shared", visible=[bench.folder]) as cluster:
        cluster.start_ray(cpus=2, hosts=2)
        yield Laptop(cluster, cluster.host("h4"), bench)


def test_a_run_is_submitted_watched_over_a_cut_stopped_and_resumed_on_fewer_nodes(
    laptop: Laptop, unbroken: str, tmp_path: Path
) -> None:
    two_nodes = ("cluster.nodes.min=2", "cluster.nodes.max=2", "cluster.ranks_per_node=1", "train.steps=3000")
    sent = laptop.submit("voyage", *two_nodes)
    assert sent.returncode == 0, sent.stdout + sent.stderr
    assert f"longhaul status --watch voyage --address {laptop.cluster.dashboard}" in sent.stdout
    wait_until(lambda: laptop.status("voyage")["step"] > 30)

    log = tmp_path / "watcher.log"
    watcher = laptop.start(log, "logs", "voyage", "--follow")
    wait_until(lambda: "logs" in laptop.calls())
    laptop.host.cut()
    wait_until(lambda: "trying again" in log.read_text(), timeout_s=120)
    laptop.host.mend()

    again = laptop.submit("voyage", *two_nodes)
    assert again.returncode == 2
    assert "longhaul resume voyage" in again.stderr

    stopped = laptop.longhaul("stop", "voyage")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert f"longhaul resume voyage --address {laptop.cluster.dashboard}" in stopped.stdout
    assert watcher.wait(timeout=120) == 130, log.read_text()  # the run's end is the client's

    resumed = laptop.longhaul("resume", "voyage", "cluster.nodes.min=1", "cluster.nodes.max=1", "train.steps=3000")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    wait_until(lambda: laptop.status("voyage")["world_size"] == 1)
    before = len(laptop.ledger("voyage"))
    wait_until(lambda: len(laptop.ledger("voyage")) > before + 5)
    assert laptop.longhaul("stop", "voyage").returncode == 0
    steps = len(laptop.bench.ledger(unbroken))
    assert laptop.ledger("voyage")[:steps] == laptop.bench.ledger(unbroken)
    assert "voyage" in laptop.longhaul("list").stdout


def test_a_run_that_waits_says_for_what_and_starts_on_a_node_that_comes_late(laptop: Laptop) -> None:
    sent = laptop.submit("patient", "cluster.nodes.min=3", "cluster.nodes.max=3", "cluster.ranks_per_node=1")
    assert sent.returncode == 0, sent.stdout + sent.stderr
    wait_until(lambda: (laptop.status("patient")["waiting"] or {}).get("ready") == 2)
    shown = laptop.longhaul("status", "patient").stdout
    assert "held by this run" in shown
    laptop.cluster.host("h3").start_ray(cpus=2)
    wait_until(lambda: laptop.status("patient")["state"] == "done", timeout_s=120)
    found = laptop.cluster.host("h3").run(["find", "/tmp", "-path", "*/py_modules_files/*/launch/remote"])
    assert found.stdout  # the submitter's Longhaul came along


def test_what_cannot_work_is_said_before_anything_starts(laptop: Laptop, tmp_path: Path) -> None:
    nowhere = laptop.longhaul("list", "--address", f"http://{laptop.host.address}:8265")
    assert nowhere.returncode == 2
    assert "cannot be reached" in nowhere.stderr
    wrong = laptop.longhaul("list", env={"RAY_AUTH_TOKEN": "0" * 64})
    assert wrong.returncode == 2
    assert "RAY_AUTH_TOKEN" in wrong.stderr
    unknown = laptop.longhaul("status", "voyag")
    assert unknown.returncode == 2
    assert "no such run on this cluster" in unknown.stderr
    relative = laptop.longhaul("submit", str(laptop.bench.config))
    assert relative.returncode == 2
    assert "cluster.shared" in relative.stderr
    code = laptop.cluster.shared / "mine"
    code.mkdir()
    (code / "keys.py").write_text("WANDB_API_KEY = '" + "0123456789abcdef" * 2 + "'\n")
    shared = f"cluster.shared={laptop.cluster.shared}"
    secret = laptop.longhaul("submit", str(laptop.bench.config), "name=leaky", shared, f"--code={code}")
    assert secret.returncode == 2
    assert "keys.py:1" in secret.stderr
    assert not (laptop.runs / "leaky").exists()
    assert all("Traceback" not in done.stderr for done in (nowhere, wrong, unknown, relative, secret))
