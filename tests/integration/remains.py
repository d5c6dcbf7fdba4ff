"""What a run leaves behind on hosts (cluster/hosts) and in their Ray: nothing, a moment after its end.

Hosts are looked into from outside, as the kernel lets root do: a frozen one, or one that is cut off, hides nothing.
`python -m tests.integration.remains ADDRESS RUN` does the same with Ray, inside of a host."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from cluster.hosts import Cluster, Host
from cluster.hosts.control import ask

PATIENCE_S = 30.0  # leases run out, and Ray takes its time to end what is given back
PAUSE_S = 0.1
_LISTENS = "0A"  # of /proc/net/tcp


class Remain(NamedTuple):
    kind: str  # "process", "memory", "file", "socket", "port", "actor" or "group"
    where: str
    what: str


def assert_nothing_remains(cluster: Cluster, run: Path) -> None:
    """Of a run that has ended, and of all before it. Hosts that are off have lost everything."""
    deadline = time.monotonic() + PATIENCE_S
    while remains := [*look_at_hosts(cluster, run), *look_at_ray(cluster, run)]:
        assert time.monotonic() < deadline, f"left behind: {remains}"
        time.sleep(PAUSE_S)


# ---- hosts ----


def look_at_hosts(cluster: Cluster, run: Path) -> list[Remain]:
    return [remain for host in cluster.hosts if host.state() != "off" for remain in look_at_host(host, run)]


def look_at_host(host: Host, run: Path) -> list[Remain]:
    init = _pid_of_init(host)
    processes = [process for pid in _list_processes(init) if (process := _look_at_process(pid, run)) is not None]
    rays = {inode for process in processes if process.is_ray for inode in process.sockets}
    return [
        *(Remain("process", host.name, one.command) for one in processes if not one.is_ray),
        *(Remain("memory", host.name, one.command) for one in processes if one.holds_memory),
        *(Remain("file", host.name, path.name) for path in Path(f"/proc/{init}/root/dev/shm").iterdir()),
        *(Remain("socket", host.name, name) for name in _list_sockets(init)),
        *(Remain("port", host.name, port) for port, inode in _list_ports(init) if inode not in rays),
    ]


def _pid_of_init(host: Host) -> int:
    """As this process sees it."""
    pidfd = ask(host.cluster, "enter", host=host.name).pidfd
    assert pidfd is not None
    try:
        lines = Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines()
    finally:
        os.close(pidfd)
    return int(next(line.split()[1] for line in lines if line.startswith("Pid:")))


def _list_processes(init: int) -> Iterator[int]:
    """All of a host but its process 1."""
    inside = Path(f"/proc/{init}/ns/pid").readlink()
    for pid in psutil.pids():
        with contextlib.suppress(OSError):  # it has ended
            if pid != init and Path(f"/proc/{pid}/ns/pid").readlink() == inside:
                yield pid


class _Process(NamedTuple):
    command: str
    is_ray: bool  # of the cluster's own, and not at work for the run
    holds_memory: bool
    sockets: frozenset[str]  # inodes


def _look_at_process(pid: int, run: Path) -> _Process | None:
    """None: it has ended."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")
        files = [str(file.readlink()) for file in Path(f"/proc/{pid}/fd").iterdir()]
        maps = Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return None
    if words == [""]:  # it is about to be reaped
        return None
    of_ray = any("/ray/" in word or word.startswith(("ray::", "ray.")) for word in words)
    of_run = any(str(run) in name for name in (*words, *files))
    return _Process(
        command=f"process {pid}: {' '.join(words)}",
        is_ray=of_ray and not of_run,
        holds_memory="/memfd:longhaul" in maps or any(name.startswith("/memfd:longhaul") for name in files),
        sockets=frozenset(name[len("socket:[") : -1] for name in files if name.startswith("socket:")),
    )


def _list_sockets(init: int) -> list[str]:
    """Of vaults and nurseries."""
    lines = Path(f"/proc/{init}/net/unix").read_text().splitlines()
    return sorted({line.rpartition(" ")[2] for line in lines if " @longhaul-" in line})


def _list_ports(init: int) -> Iterator[tuple[str, str]]:
    """Whoever listens there: address and port as the kernel writes them, and the socket's inode."""
    for kind in ("tcp", "tcp6"):
        for line in Path(f"/proc/{init}/net/{kind}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENS:
                yield fields[1], fields[9]


# ---- Ray ----


def look_at_ray(cluster: Cluster, run: Path) -> list[Remain]:
    command = [sys.executable, "-m", "tests.integration.remains", cluster.ray_address, str(run)]
    asked = cluster.host("h1").run(command, cwd=Path(__file__).parents[2], timeout_s=60)
    assert asked.returncode == 0, asked.stderr
    return [Remain(*fields) for fields in json.loads(asked.stdout)]


def look_inside(address: str, run: Path) -> Sequence[Remain]:
    from ray.util import list_named_actors

    from orchestrator.control.connect import connected
    from orchestrator.control.group import list_groups
    from orchestrator.control.jobs import RunHandle
    from orchestrator.tracking.rundir import RunDir

    handle = RunHandle(path=run, key=RunDir(run).key)
    with connected(address):
        names = [actor["name"] for actor in list_named_actors(all_namespaces=True)]
        actors = [Remain("actor", "Ray", name) for name in names if name.startswith(handle.actor_name(""))]
        return [*actors, *(Remain("group", "Ray", row["name"]) for row in list_groups(handle).values())]


if __name__ == "__main__":
    print(json.dumps(look_inside(sys.argv[1], Path(sys.argv[2]))))
