"""Hosts made of this machine as a place for a run: one for the head, where controller and scribe live and nobody
trains, and one for each node. Nodes can be killed, cut off and added; their numbers begin at 0, which is host h2."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from launch.chaos.watch import Process
from launch.cluster import least_cpus
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import BadInput, LonghaulError

if TYPE_CHECKING:
    from cluster.hosts import Cluster, Host
    from cluster.hosts.raynode import RayNode

# Ray's own search for dead nodes; Longhaul does not wait for it, but a node that is booted again must be a new one
_RAY = {"RAY_health_check_timeout_ms": "1000", "RAY_health_check_failure_threshold": "3"}


class Hosts:
    def __init__(self, cluster: "Cluster", cpus: int, there: int) -> None:
        self.address = cluster.ray_address
        self._cluster, self._cpus = cluster, cpus
        self._nodes = cluster.hosts[1:]
        self._kept_back = list(self._nodes[there:])
        self._killed: list[Host] = []
        self._rays: dict[str, RayNode] = {}

    @classmethod
    @contextmanager
    def open(cls, config: RunConfig, folder: Path, *, there: int, most: int) -> Iterator[Self]:
        """`there` of `most` nodes have Ray when the block begins; all is gone when it ends."""
        check_hosts(most + 1)
        from cluster.hosts import Cluster

        cpus = least_cpus(config)
        with Cluster.start(most + 1, shared=folder, visible=folders_of(config)) as cluster:
            cluster.start_ray(0, hosts=1, dashboard=False, env={**_RAY, "PYTHONPATH": importable()})
            hosts = cls(cluster, cpus, there)
            try:
                for host in hosts._nodes[:there]:
                    hosts._begin_ray(host)
                for ray in hosts._rays.values():
                    ray.wait_until_up()
                yield hosts
            finally:
                for ray in hosts._rays.values():
                    ray.log.close()

    def start(self, command: Sequence[str], log: Path) -> subprocess.Popen[str]:
        """On the head."""
        with log.open("w") as output:
            return self._cluster.hosts[0].start(command, stdout=output, stderr=output)

    def send(self, process: Process, number: signal.Signals) -> None:
        """ProcessLookupError when it is gone, or its host."""
        try:
            sent = self._host(process.host).run(["kill", f"-{number.value}", str(process.pid)])
        except LonghaulError as problem:  # the host is off
            raise ProcessLookupError(str(problem)) from problem
        if sent.returncode:
            raise ProcessLookupError(sent.stderr.strip())

    def find_actor(self, host: str, log: Path) -> Process | None:
        """The process on that host that writes this log."""
        command = [sys.executable, "-m", "launch.chaos.find", str(log)]
        found = self._host(host).run(command)
        return Process(host, int(found.stdout)) if found.returncode == 0 else None

    def _host(self, name: str) -> "Host":
        """By its name, or by the address that Ray knows it by."""
        return next(host for host in self._cluster.hosts if name in (host.name, host.address))

    def kill_node(self, number: int) -> None:
        self._nodes[number].kill()
        self._killed.append(self._nodes[number])

    def cut_node(self, number: int) -> None:
        self._nodes[number].cut()

    def mend_node(self, number: int) -> None:
        self._nodes[number].mend()

    def tend(self) -> None:
        """A Ray that was cut off too long ends when it hears so; as by a service manager, it begins anew."""
        for host in self._nodes:
            ray = self._rays.get(host.name)
            if ray is not None and host not in self._killed and ray.process.poll() is not None:
                self._begin_ray(host)

    def add_node(self) -> None:
        """The one that was killed first comes back, otherwise one comes that was kept back. Its Ray takes seconds."""
        if self._killed:
            host = self._killed.pop(0)
            host.boot()
        else:
            host = self._kept_back.pop(0)
        self._begin_ray(host)

    def _begin_ray(self, host: "Host") -> None:
        if host.name in self._rays:
            self._rays[host.name].log.close()
        self._rays[host.name] = host.begin_ray(self._cpus, dashboard=False)


def importable() -> str:
    """Every host imports what this process does, wherever the command was given."""
    return os.pathsep.join(path or str(Path.cwd()) for path in sys.path)


def check_hosts(count: int) -> None:
    """BadInput unless this machine can be so many hosts."""
    try:
        from cluster.hosts import refuse_what_cannot_work
    except ImportError as problem:
        raise BadInput(
            "several nodes on one machine are hosts of cluster/hosts, which is not installed with Longhaul",
            where="chaos",
            remedy="give the command in a clone of Longhaul, as `python -m launch.cli chaos ...`",
        ) from problem
    refuse_what_cannot_work(count)


def folders_of(config: RunConfig) -> list[Path]:
    """What a run reads and shares beside its own folder: every host must see it at the same path."""
    work = Path(config.data.work)
    work.mkdir(parents=True, exist_ok=True)
    named = [source.path for source in config.data.train if "://" not in source.path]
    named += [path for path in (config.code, config.model.pretrained, config.model.weights) if path is not None]
    parents = [Path(path) if Path(path).is_dir() else Path(path).parent for path in named]
    return [work, *(folder for folder in parents if folder.is_dir())]
