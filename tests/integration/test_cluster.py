"""A Ray that is there already, of two nodes on this machine: joining it, waiting on it, and being refused by it."""

import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from tests.integration.conftest import Bench
from tests.integration.test_faults import wait_until

pytestmark = pytest.mark.cluster

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_DISABLE_USAGE_STATS": "1"}
RAY = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--min-worker-port=0", "--max-worker-port=0"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def ray_node(folder: Path, *arguments: str, wrap: tuple[str, ...] = ()) -> Iterator[psutil.Process]:
    """One raylet (and, as head, the GCS) with two CPUs."""
    log = (folder / f"node-{secrets.token_hex(4)}.log").open("wb")
    command = [*wrap, *RAY, "--num-cpus=2", "--dashboard-agent-listen-port=0", *arguments]
    with log:
        process = subprocess.Popen(command, env=os.environ | TOKEN, stdout=log, stderr=log, start_new_session=True)
    try:
        yield psutil.Process(process.pid)
    finally:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        process.terminate()
        _, alive = psutil.wait_procs(family, timeout=10)
        for one in alive:
            one.kill()
        process.wait()


def head(folder: Path, stack: ExitStack) -> str:
    port = free_port()
    options = ["--include-dashboard=false", "--include-log-monitor=false", "--no-monitor"]
    if importlib.util.find_spec("grpc"):  # then Ray opens a port for its client protocol, asked or not
        options.append(f"--ray-client-server-port={free_port()}")
    stack.enter_context(ray_node(folder, "--head", f"--port={port}", f"--temp-dir={folder / 'ray'}", *options))
    wait_until(lambda: reachable(port))
    return f"127.0.0.1:{port}"


def reachable(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def ask_ray(address: str, expression: str) -> str:
    """What a driver of the cluster prints; empty when it cannot be reached yet."""
    code = (
        "import ray, sys; from ray.util import placement_group_table, list_named_actors;"
        f"ray.init(address=sys.argv[1], log_to_driver=False); print({expression})"
    )
    command = [sys.executable, "-c", code, address]
    out = subprocess.run(command, env=os.environ | TOKEN, capture_output=True, text=True, timeout=60, check=False)
    return out.stdout.strip()


def nodes_alive(address: str) -> int:
    return int(ask_ray(address, "sum(node['Alive'] for node in ray.nodes())") or 0)


def is_given_back(address: str) -> bool:
    """No placement group and no named actor of a run is left."""
    groups = "[g['name'] for g in placement_group_table().values() if g['state'] != 'REMOVED']"
    return ask_ray(address, f"{groups}, list_named_actors(all_namespaces=True)") == "[] []"


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="lh-", dir="/tmp"))  # short: Ray's sockets lie below it
    yield path
    shutil.rmtree(path, ignore_errors=True)


def test_two_nodes_train_one_run_and_are_given_back(bench: Bench, unbroken: str, folder: Path) -> None:
    with ExitStack() as stack:
        address = head(folder, stack)
        stack.enter_context(ray_node(folder, f"--address={address}"))
        wait_until(lambda: nodes_alive(address) == 2)
        sets = ("cluster.ranks_per_node=1", "cluster.nodes.min=2", "cluster.nodes.max=2", f"cluster.address={address}")
        done = bench.longhaul("run", str(bench.config), "name=two-nodes", *sets, env=TOKEN)
        assert done.returncode == 0, done.stdout + done.stderr
        [warming] = bench.events("two-nodes", "warming")
        assert len(set(warming["nodes"])) == 2
        assert bench.ledger("two-nodes") == bench.ledger(unbroken)
        assert bench.losses("two-nodes") == bench.losses(unbroken)  # the same world of two ranks, wherever they are
        wait_until(lambda: is_given_back(address))


def test_too_small_a_cluster_waits_and_then_says_what_is_missing(bench: Bench, unbroken: str, folder: Path) -> None:
    with ExitStack() as stack:
        address = head(folder, stack)
        sets = ("cluster.nodes.min=2", "cluster.nodes.max=2", "cluster.start_timeout_s=3", f"cluster.address={address}")
        failed = bench.longhaul("run", str(bench.config), "name=too-small", *sets, env=TOKEN)
        assert failed.returncode == 1
        text = " ".join(failed.stdout.split())
        assert "1 of cluster.nodes.min=2 nodes" in text
        assert "each node must offer 2 CPU" in text
        wait_until(lambda: is_given_back(address))


@pytest.mark.skipif(os.geteuid() != 0, reason="a mount namespace needs root")
def test_a_root_that_a_node_does_not_see_is_refused(bench: Bench, folder: Path) -> None:
    with ExitStack() as stack:
        address = head(folder, stack)
        hide = f'mount -t tmpfs none {bench.folder / "runs"} && exec "$@"'
        (bench.folder / "runs").mkdir(exist_ok=True)
        wrap = ("unshare", "--mount", "sh", "-c", hide, "sh")
        stack.enter_context(ray_node(folder, f"--address={address}", wrap=wrap))
        wait_until(lambda: nodes_alive(address) == 2)
        refused = bench.longhaul("run", str(bench.config), "name=blind", f"cluster.address={address}", env=TOKEN)
        assert refused.returncode == 2, refused.stdout + refused.stderr
        assert "does not see this folder" in refused.stderr
        assert not bench.path("blind").exists()
        assert not list((bench.folder / "runs").glob(".probe*"))


def test_a_node_that_dies_while_the_cluster_is_looked_at_is_done_without(
    bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_health_check_timeout_ms", "1000")
    monkeypatch.setenv("RAY_health_check_failure_threshold", "2")
    with ExitStack() as stack:
        address = head(folder, stack)
        node = stack.enter_context(ray_node(folder, f"--address={address}"))
        wait_until(lambda: nodes_alive(address) == 2)
        [raylet] = [process for process in node.children() if process.name() == "raylet"]
        raylet.send_signal(signal.SIGSTOP)  # Ray takes it for alive until it has missed some beats
        stack.callback(raylet.kill)
        done = bench.longhaul("run", str(bench.config), "name=one-left", f"cluster.address={address}", env=TOKEN)
        assert done.returncode == 0, done.stdout + done.stderr


def test_another_ray_version_and_a_wrong_token_are_refused(bench: Bench, folder: Path) -> None:
    with ExitStack() as stack:
        address = head(folder, stack)
        wait_until(lambda: nodes_alive(address) == 1)
        arguments = ("run", str(bench.config), "name=other", f"cluster.address={address}")
        wrong = bench.longhaul(*arguments, env=TOKEN | {"RAY_AUTH_TOKEN": "0" * 64})
        assert wrong.returncode == 2, wrong.stdout + wrong.stderr
        assert "cluster.address" in wrong.stderr
        assert "Traceback" not in wrong.stderr
        code = "import ray; ray.__version__ = '2.9.0'; from launch.cli import main; main()"
        other = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=bench.folder, env=os.environ | TOKEN, capture_output=True,
            text=True, timeout=120, check=False,
        )  # fmt: skip
        assert other.returncode == 2, other.stdout + other.stderr
        assert re.search(r"[Vv]ersion", other.stderr)
        assert "Traceback" not in other.stderr
        assert not bench.path("other").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system needs root")
def test_a_root_without_space_is_refused_before_anything_starts(bench: Bench, unbroken: str, folder: Path) -> None:
    small = folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)], check=True)
    try:
        refused = bench.longhaul("run", str(bench.config), "name=cramped", f"root={small}")
        assert refused.returncode == 2, refused.stdout + refused.stderr
        assert "free" in refused.stderr
        assert not (small / "cramped").exists()
    finally:
        subprocess.run(["umount", str(small)], check=True)
