"""The keeper of a cluster of hosts: process 1 of a pid namespace, and owner of the network namespace with the switch.

All hosts are its children. It ends with its owner, and the kernel then ends every process, interface and mount it kept,
however its owner ended. Started by cluster/hosts/cluster.py, asked through cluster/hosts/control.py."""

import json
import os
import select
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import Any

from cluster.hosts.control import Answer, Operation, serve_one
from cluster.hosts.namespaces import ALL, CLONE, await_reaped, spawn_apart, spawn_inside
from cluster.hosts.network import Network, delete_link, free_rate, lay_cable, limit_rate, plug_in, run, set_up_switch
from orchestrator.core.errors import LonghaulError


@dataclass(slots=True)
class HostState:
    number: int
    init: subprocess.Popen[str] | None = None  # none when it is off
    marks: dict[str, str] = field(default_factory=dict)  # what is done to it, in words people see

    def describe(self) -> str:
        if self.init is None or self.init.poll() is not None:
            return "off"
        return ", ".join(["up", *self.marks.values()])


class Keeper:
    def __init__(self, network: Network, hosts: int, shared: str, visible: list[str]) -> None:
        self.network, self.shared, self.visible = network, shared, visible
        self.states = {f"h{number}": HostState(number) for number in range(1, hosts + 1)}
        self.names = {name: network.address(state.number) for name, state in self.states.items()}
        self.environment: dict[str, str] = {}  # what commands in the hosts get, e.g. Ray's token

    def operations(self) -> dict[str, Operation]:
        return {
            "describe": self.describe, "remember": self.remember, "enter": self.enter, "boot": self.boot,
            "kill": self.kill, "cut": self.cut, "mend": self.mend, "limit_rate": self.limit_rate,
            "freeze": self.freeze, "thaw": self.thaw,
        }  # fmt: skip

    def describe(self) -> Answer:
        hosts = [
            {"name": name, "address": self.names[name], "state": state.describe()}
            for name, state in self.states.items()
        ]
        return Answer({"shared": self.shared, "hosts": hosts, "environment": self.environment})

    def remember(self, environment: dict[str, str]) -> Answer:
        self.environment |= environment
        return Answer()

    def enter(self, host: str) -> Answer:
        return Answer(self.environment, os.pidfd_open(self._running(host).pid))

    def boot_all(self) -> None:
        """All at once: most of it is waiting for Python."""
        for host in self.states:
            self._start(host)
        for host in self.states:
            self._await_up(host)

    def boot(self, host: str) -> Answer:
        if self._known(host).describe() != "off":
            raise LonghaulError(f"{host} is up")
        self.kill(host)  # what is left of it, if it ended by itself
        self._start(host)
        self._await_up(host)
        return Answer()

    def kill(self, host: str) -> Answer:
        """A power cut. The cable goes first, so that no socket of the dying says goodbye."""
        state = self._known(host)
        if state.init is not None:
            delete_link(host)
            state.init.kill()
            await_reaped(state.init)
        state.init = None
        state.marks.clear()
        return Answer()

    def cut(self, host: str) -> Answer:
        self._running(host)
        run("ip", "link", "set", host, "down")
        self.states[host].marks["link"] = "cut off"
        return Answer()

    def mend(self, host: str) -> Answer:
        self._running(host)
        plug_in(host)
        self.states[host].marks.pop("link", None)
        return Answer()

    def limit_rate(self, host: str, rate: str | None) -> Answer:
        """In both directions."""
        self._running(host)
        marks = self.states[host].marks
        if marks.pop("rate", None):
            self._run_inside(host, free_rate("eth0"))
            run(*free_rate(host))
        if rate is not None:
            self._run_inside(host, limit_rate("eth0", rate))
            run(*limit_rate(host, rate))
            marks["rate"] = f"limited to {rate}"
        return Answer()

    def freeze(self, host: str) -> Answer:
        """-1: every process of the namespace at once, but for process 1 and the one that sends."""
        self._run_inside(host, ["sh", "-c", "kill -STOP -1"])
        self.states[host].marks["processes"] = "frozen"
        return Answer()

    def thaw(self, host: str) -> Answer:
        self._run_inside(host, ["sh", "-c", "kill -CONT -1"])
        self.states[host].marks.pop("processes", None)
        return Answer()

    def _start(self, host: str) -> None:
        state = self.states[host]
        command = [sys.executable, "-m", "cluster.hosts.init"]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        state.init = spawn_apart(ALL, command, cwd=CLONE, **pipes)
        lay_cable(host, self.network.hardware(state.number), state.init.pid)
        assert state.init.stdin is not None
        with state.init.stdin as settings:
            json.dump({"name": host, "names": self.names, "visible": self.visible}, settings)

    def _await_up(self, host: str) -> None:
        init = self.states[host].init
        assert init is not None
        assert init.stdout is not None
        with init.stdout as words:
            if (said := words.readline()) != "up\n":
                init.kill()
                said += words.read()
                self.kill(host)
                raise LonghaulError(f"{host} did not come up:\n{said}")

    def _run_inside(self, host: str, command: list[str]) -> None:
        pidfd = os.pidfd_open(self._running(host).pid)
        try:
            process = spawn_inside(pidfd, command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        finally:
            os.close(pidfd)
        said, _ = process.communicate()
        if process.returncode != 0:
            raise LonghaulError(f"`{' '.join(command)}` failed: {said.strip()}")

    def _running(self, host: str) -> subprocess.Popen[str]:
        state = self._known(host)
        if state.init is None or state.init.poll() is not None:
            raise LonghaulError(f"{host} is off")
        return state.init

    def _known(self, host: str) -> HostState:
        if host not in self.states:
            raise LonghaulError(f"there is no host {host}, only {', '.join(self.states)}")
        return self.states[host]


def main(listener: socket.socket, owner: int) -> None:
    """Settings come by stdin, and end when the machine is connected. `owner`: a pidfd, readable once it has ended."""
    threading.Thread(target=end_with, args=(owner,), daemon=True).start()
    settings = json.load(sys.stdin)
    network = Network(*settings.pop("network"))
    set_up_switch()
    keeper = Keeper(network, **settings)
    keeper.boot_all()
    while True:
        serve_one(listener, keeper.operations())


def end_with(owner: int) -> None:
    """Whatever else is under way."""
    select.select([owner], [], [])
    os._exit(0)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
