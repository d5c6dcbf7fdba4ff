"""One host of a running cluster, as tests and commands see it: run things in it, break it, mend it."""

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cluster.hosts.control import ask
from cluster.hosts.namespaces import spawn_inside
from cluster.hosts.raynode import RayNode, ray_command
from orchestrator.core.errors import BadInput

Pipe = int | IO[Any] | None


@dataclass(frozen=True, slots=True)
class Host:
    """Commands in it see its own name, network, processes, /tmp and /dev/shm; the other files are the machine's."""

    cluster: str
    name: str
    address: str
    head: str  # the address of h1
    shared: Path

    def run(
        self, command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None,
        timeout_s: float | None = None,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """A command and what it says. Past the timeout it is killed with all it started, and TimeoutExpired raised."""
        with self.start(command, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                stdout, stderr = process.communicate(timeout=timeout_s)
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    def start(
        self, command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None,
        stdin: Pipe = subprocess.DEVNULL, stdout: Pipe = None, stderr: Pipe = None, new_session: bool = True,
    ) -> subprocess.Popen[str]:  # fmt: skip
        """A command that goes on, at most until the host is killed. `env` is laid over this process's environment and
        Ray's token; `cwd` is the shared folder unless said otherwise."""
        environment, pidfd = ask(self.cluster, "enter", host=self.name)
        assert pidfd is not None
        try:
            return spawn_inside(
                pidfd, command, env={**os.environ, **environment, **(env or {})}, cwd=cwd or self.shared,
                stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=new_session,
            )  # fmt: skip
        except OSError as problem:
            raise BadInput(f"`{command[0]}` cannot be started: {problem}", where=self.name) from problem
        finally:
            os.close(pidfd)

    def start_ray(self, cpus: int = 2, *, dashboard: bool = True) -> subprocess.Popen[str]:
        """A Ray node, up when this returns; on h1 it is the head. Cluster.start_ray must have been called before."""
        node = self.begin_ray(cpus, dashboard)
        node.wait_until_up()
        return node.process

    def begin_ray(self, cpus: int, dashboard: bool) -> RayNode:
        """As start_ray, without waiting."""
        if "RAY_AUTH_TOKEN" not in ask(self.cluster, "describe").value["environment"]:
            raise BadInput("this cluster has no Ray yet", where=self.name, remedy="Cluster.start_ray()")
        log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (kept for whoever waits for Ray)
        command = ray_command(self.address, self.head, cpus, dashboard)
        return RayNode(self.name, self.start(command, stdout=log, stderr=log), log)

    def state(self) -> str:
        """'off', or 'up' and what has been done to it."""
        hosts = ask(self.cluster, "describe").value["hosts"]
        states: dict[str, str] = {host["name"]: host["state"] for host in hosts}
        return states[self.name]

    def kill(self) -> None:
        """A power cut: every process is gone, /tmp and /dev/shm too, and nobody hears a goodbye."""
        ask(self.cluster, "kill", host=self.name)

    def boot(self) -> None:
        """Bring up a host that was killed, with empty /tmp and /dev/shm. Its link is whole; nothing runs in it."""
        ask(self.cluster, "boot", host=self.name)

    def cut(self) -> None:
        """Take its link down: a partition."""
        ask(self.cluster, "cut", host=self.name)

    def mend(self) -> None:
        ask(self.cluster, "mend", host=self.name)

    def limit_rate(self, rate: str | None) -> None:
        """To `20mbit` (tc's words) in each direction, until it is None or the host is killed."""
        ask(self.cluster, "limit_rate", host=self.name, rate=rate)

    def freeze(self) -> None:
        """Stop every process: its connections stay open, and nothing answers."""
        ask(self.cluster, "freeze", host=self.name)

    def thaw(self) -> None:
        ask(self.cluster, "thaw", host=self.name)
