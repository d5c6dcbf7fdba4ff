"""A cluster of hosts on this machine, for tests and people.

    with Cluster.start(hosts=4, shared=folder) as cluster:
        cluster.start_ray(cpus=2)
        cluster.hosts[2].kill()

Behind it stand the keeper (keeper.py), which owns everything and ends with this process, and process 1 of each host
(init.py)."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from cluster.hosts.control import ask, list_clusters
from cluster.hosts.host import Host
from cluster.hosts.namespaces import CLONE, HIDDEN_FOLDERS, NET, PID, await_reaped, spawn_apart
from cluster.hosts.network import claim_network, connect_machine, delete_link
from cluster.hosts.raynode import DASHBOARD_PORT, GCS_PORT, ray_environment
from orchestrator.core.errors import BadInput, LonghaulError

_MOST_HOSTS = 200


@dataclass(frozen=True, slots=True)
class Cluster:
    """Running hosts; `name` is also that of the machine's interface to them."""

    name: str
    shared: Path
    hosts: list[Host]

    @classmethod
    @contextmanager
    def start(cls, hosts: int = 4, *, shared: Path, visible: Sequence[Path] = ()) -> Iterator[Self]:
        """Bring up hosts h1, h2, ...; all of it is gone when the block ends, or when this process does.

        `shared` and `visible` are seen in all hosts at the same path, also below /tmp, which is each host's own."""
        refuse_what_cannot_work(hosts)
        shared = shared.absolute()
        shared.mkdir(parents=True, exist_ok=True)
        hidden = find_hidden([shared, *visible])
        network, listener = claim_network()
        with listener, tempfile.TemporaryFile() as log:
            keeper = _start_keeper(listener, log)
            try:
                connect_machine(network, keeper.pid)
                settings = {"hosts": hosts, "shared": str(shared), "visible": hidden}
                _tell(keeper, {"network": [network.high, network.low], **settings})
                listener.close()  # the keeper's alone: it closes with the keeper
                yield cls.find(network.name)
            finally:
                _end(keeper, network.name, log)

    @classmethod
    def find(cls, name: str | None = None) -> Self:
        """A cluster that somebody started on this machine; the only one, if no name is given."""
        running = list_clusters()
        if name is None and len(running) > 1:
            raise BadInput("which cluster?", where="hosts", remedy=f"one of {', '.join(running)}")
        if name is None and not running:
            raise BadInput("no cluster of hosts is running", where="hosts", remedy="python -m cluster.hosts up 4")
        name = name or running[0]
        told = ask(name, "describe").value
        shared, head = Path(told["shared"]), told["hosts"][0]["address"]
        return cls(name, shared, [Host(name, host["name"], host["address"], head, shared) for host in told["hosts"]])

    def host(self, name: str) -> Host:
        for host in self.hosts:
            if host.name == name:
                return host
        raise BadInput(f"no host {name}, only {', '.join(h.name for h in self.hosts)}", where=f"cluster {self.name}")

    @property
    def environment(self) -> dict[str, str]:
        """What speaking with its Ray takes, from outside: `env=os.environ | cluster.environment`."""
        environment: dict[str, str] = ask(self.name, "describe").value["environment"]
        return environment

    @property
    def ray_address(self) -> str:
        return f"{self.hosts[0].address}:{GCS_PORT}"

    @property
    def dashboard(self) -> str:
        return f"http://{self.hosts[0].address}:{DASHBOARD_PORT}"

    def start_ray(
        self,
        cpus: int = 2,
        *,
        head_cpus: int | None = None,
        hosts: int | None = None,
        token: str | None = None,
        dashboard: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """The head on h1 (with `head_cpus`, if they are others) and a worker on every other host, or on the first
        `hosts` only; all are up when this returns. `env` is for them, and for what is run in the hosts from now on."""
        ask(self.name, "remember", environment={**ray_environment(token), **(env or {})})
        head, *others = self.hosts[:hosts]
        head.start_ray(cpus if head_cpus is None else head_cpus, dashboard=dashboard)
        for node in [host.begin_ray(cpus, dashboard) for host in others]:
            node.wait_until_up()


def refuse_what_cannot_work(hosts: int = 1) -> None:
    """BadInput, unless this machine and user can have that many hosts."""
    if sys.platform != "linux":
        raise BadInput("hosts are made of Linux namespaces", where="hosts", remedy="use Linux, e.g. a virtual machine")
    if os.geteuid() != 0:
        raise BadInput("hosts need root", where="hosts", remedy="use sudo, or a virtual machine")
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            raise BadInput(f"`{tool}` is missing", where="hosts", remedy="apt install iproute2")
    if not 1 <= hosts <= _MOST_HOSTS:
        raise BadInput(f"{hosts} hosts", where="hosts", remedy=f"1 to {_MOST_HOSTS}")
    try:
        spawn_apart(PID | NET, ["true"]).wait()
    except OSError as problem:
        remedy = "a container needs --privileged"
        raise BadInput(f"namespaces are refused here: {problem}", where="hosts", remedy=remedy) from problem


def find_hidden(wanted: Sequence[Path]) -> list[str]:
    """Of these paths, and of what this Python imports from, those that the hosts' own folders would hide."""
    ours = [CLONE, Path(sys.prefix), Path(sys.base_prefix), *(Path(word) for word in sys.path if word)]
    for folder in wanted:
        if not folder.is_dir():
            raise BadInput(f"no such folder: {folder}", where="hosts")
        if folder.resolve() in HIDDEN_FOLDERS:
            raise BadInput(f"every host has a {folder} of its own", where="hosts", remedy="take a folder in it")
    asked = {path for folder in (*wanted, *ours) for path in (folder.absolute(), folder.resolve())}
    hidden = [path for path in sorted(asked) if path.is_dir() and set(HIDDEN_FOLDERS) & set(path.parents)]
    return [str(path) for path in hidden if not set(hidden) & set(path.parents)]


def _start_keeper(listener: socket.socket, log: IO[bytes]) -> subprocess.Popen[str]:
    owner = os.pidfd_open(os.getpid())
    command = [sys.executable, "-m", "cluster.hosts.keeper", str(listener.fileno()), str(owner)]
    try:
        return spawn_apart(
            PID | NET, command, cwd=CLONE, stdin=subprocess.PIPE, stdout=log, stderr=log,
            pass_fds=(listener.fileno(), owner), start_new_session=True,
        )  # fmt: skip
    finally:
        os.close(owner)


def _tell(keeper: subprocess.Popen[str], settings: dict[str, object]) -> None:
    assert keeper.stdin is not None
    with contextlib.suppress(BrokenPipeError), keeper.stdin:  # its log has the reason
        json.dump(settings, keeper.stdin)


def _end(keeper: subprocess.Popen[str], name: str, log: IO[bytes]) -> None:
    delete_link(name)  # before the keeper gives up the name
    keeper.kill()
    await_reaped(keeper)
    if keeper.returncode not in (None, -signal.SIGKILL):  # it had ended by itself
        log.seek(0)
        raise LonghaulError(f"the keeper of the hosts ended:\n{log.read().decode()[-2000:]}", where=f"cluster {name}")
