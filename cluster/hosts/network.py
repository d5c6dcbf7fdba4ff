"""The network of a cluster: which addresses are free, and the commands that lay and cut its cables.

A cable is a veth pair: one end is `eth0` of a host, the other a port of the switch, named like the host."""

import ipaddress
import json
import socket
import subprocess
from dataclasses import dataclass

from cluster.hosts.control import listen
from orchestrator.core.errors import BadInput, LonghaulError

SWITCH, OUTSIDE = "switch", "outside"  # the bridge, and its port to the machine, in the keeper's namespace
MACHINE = 254  # the machine's own last number in each network
_FIRST, _LAST = 64, 127  # 10.64.x.0/24 to 10.127.x.0/24: seldom used by others


@dataclass(frozen=True, slots=True)
class Network:
    """10.high.low.0/24: host n has number n. `name` is the cluster's, and that of the machine's interface to it."""

    high: int
    low: int

    @property
    def name(self) -> str:
        return f"lh{self.high}-{self.low}"

    @property
    def subnet(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(f"10.{self.high}.{self.low}.0/24")

    def address(self, number: int) -> str:
        return str(self.subnet[number])

    def hardware(self, number: int) -> str:
        """The same after a reboot, so that neighbours need not learn a new one."""
        return f"02:4c:48:{self.high:02x}:{self.low:02x}:{number:02x}"


def claim_network() -> tuple[Network, socket.socket]:
    """The first network that no route overlaps and no other cluster has. Whoever has the socket has the network."""
    taken = _routed()
    for high in range(_FIRST, _LAST + 1):
        for low in range(256):
            network = Network(high, low)
            if any(network.subnet.overlaps(other) for other in taken):
                continue
            try:
                return network, listen(network.name)
            except OSError:
                continue
    raise BadInput("no free network between 10.64.0.0 and 10.127.255.0", where="hosts", remedy="see `ip route`")


def _routed() -> list[ipaddress.IPv4Network]:
    routes = json.loads(run("ip", "-json", "-4", "route", "show", "table", "all"))
    words = {route["dst"] for route in routes} - {"default", "0.0.0.0/0"}
    return [ipaddress.IPv4Network(word, strict=False) for word in words]


def connect_machine(network: Network, keeper: int) -> None:
    """From the machine's own namespace: a cable to the switch of this keeper."""
    name = network.name
    run("ip", "link", "add", name, "type", "veth", "peer", "name", OUTSIDE, "netns", str(keeper))
    run("ip", "address", "add", f"{network.address(MACHINE)}/24", "dev", name)
    run("ip", "link", "set", name, "up")


def delete_link(name: str) -> None:
    """With both ends of its cable. It may be gone already, with the namespace of the other end."""
    subprocess.run(["ip", "link", "delete", name], capture_output=True, check=False)


def set_up_switch() -> None:
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", SWITCH, "type", "bridge", "forward_delay", "0")
    run("ip", "link", "set", SWITCH, "up")
    plug_in(OUTSIDE)


def plug_in(port: str) -> None:
    run("ip", "link", "set", port, "master", SWITCH, "up")


def lay_cable(host: str, hardware: str, process: int) -> None:
    """Between the switch and the namespace of this process."""
    run("ip", "link", "add", host, "type", "veth", "peer", "name", "eth0", "address", hardware, "netns", str(process))
    plug_in(host)


def limit_rate(interface: str, rate: str) -> list[str]:
    """The command that limits what leaves through this interface: a bucket of 128 kB, and a queue of 0.1 s."""
    return ["tc", "qdisc", "add", "dev", interface, "root", "tbf", "rate", rate, "burst", "128kb", "latency", "100ms"]


def free_rate(interface: str) -> list[str]:
    return ["tc", "qdisc", "delete", "dev", interface, "root"]


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LonghaulError(f"`{' '.join(command)}` failed: {(done.stderr or done.stdout).strip()}", where="hosts")
    return done.stdout
