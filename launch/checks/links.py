"""Whether every node can reach every other on the ports that ranks will listen on, and under the name they will use.

Each node opens a port and sends data to whoever connects: a handshake does not show that large packets pass."""

import ipaddress
import os
import random
import socket
import socketserver
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from launch.checks.check import Check, name_nodes

CONNECT_TIMEOUT_S = 5.0
MOST_FOR_ALL_PAIRS = 16
FURTHER_PAIRS = 2  # of each node, beyond the ring, when there are more nodes
SIZE_BYTES = 256 * 1024
_POLL_S = 0.05  # closing a door waits for it
_GLOO = "GLOO_SOCKET_IFNAME"


@dataclass(frozen=True, kw_only=True, slots=True)
class Door:
    """An open port of a node. `named`: the address that the node's own host name stands for, empty for none."""

    address: str
    port: int
    ports: tuple[int, int]  # from which the kernel takes the ports that it chooses
    named: str
    interface: str  # that has `address`


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64


class _Sender(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(bytes(SIZE_BYTES))


_open: list[_Server] = []  # of this process


def open_door(address: str) -> Door:
    """On the node at `address`, until close_doors or the end of the process."""
    server = _Server(("", 0), _Sender)
    threading.Thread(target=server.serve_forever, args=(_POLL_S,), daemon=True).start()
    _open.append(server)
    first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    return Door(
        address=address,
        port=server.server_address[1],
        ports=(int(first), int(last)),
        named=address_of_own_name(),
        interface=interface_of(address),
    )


def close_doors() -> None:
    while _open:
        server = _open.pop()
        server.shutdown()
        server.server_close()


def try_doors(doors: Mapping[str, Door]) -> dict[str, str]:
    """By node, why it could not be reached from here; empty when it was."""
    with ThreadPoolExecutor(max_workers=16) as pool:
        return dict(zip(doors, pool.map(try_door, doors.values()), strict=True))


def try_door(door: Door) -> str:
    received = 0
    try:
        with socket.create_connection((door.address, door.port), timeout=CONNECT_TIMEOUT_S) as connection:
            while received < SIZE_BYTES and (part := connection.recv(SIZE_BYTES)):
                received += len(part)
    except OSError as error:
        stuck = f" after {received} of {SIZE_BYTES} bytes" if received else ""
        return f"{error.strerror or error}{stuck}"
    return "" if received == SIZE_BYTES else f"closed after {received} of {SIZE_BYTES} bytes"


def address_of_own_name() -> str:
    """What gloo listens on: the first address of the host name that this host can bind, else the loopback. Empty when
    the environment names an interface instead."""
    if os.environ.get(_GLOO):
        return ""
    try:
        found = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
    except OSError:
        return "127.0.0.1"
    return next((str(place[0]) for family, *_, place in found if _can_bind(family, place)), "127.0.0.1")


def _can_bind(family: int, place: tuple[Any, ...]) -> bool:
    with socket.socket(family) as probe:
        try:
            probe.bind(place)
        except OSError:
            return False
    return True


def interface_of(address: str) -> str:
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address == address for one in addresses):
            return name
    return ""


def pairs_to_try(nodes: Sequence[str]) -> dict[str, list[str]]:
    """For each node those that it shall connect to: all others; on large clusters the next one and some at random."""
    if len(nodes) <= MOST_FOR_ALL_PAIRS:
        return {node: [other for other in nodes if other != node] for node in nodes}
    rng = random.Random(0)
    following = dict(zip(nodes, [*nodes[1:], nodes[0]], strict=True))
    return {
        node: [following[node], *rng.sample([n for n in nodes if n not in (node, following[node])], FURTHER_PAIRS)]
        for node in nodes
    }


# ---- the checks ----


def check_links(doors: Mapping[str, Door], reasons: Mapping[tuple[str, str], str]) -> list[Check]:
    """`reasons`: by (from, to), why no connection was made; empty when it was."""
    failed = {pair: why for pair, why in reasons.items() if why}
    if not failed:
        return [Check("ok", "connections", f"all {len(reasons)} that were tried between nodes, on free ports")]
    first, last = (
        edge(ends) for edge, ends in zip((min, max), zip(*(d.ports for d in doors.values()), strict=True), strict=True)
    )
    remedy = f"let all nodes connect to each other by TCP on ports {first}-{last}, from which ranks take theirs"
    return [Check("problem", "connections", text, remedy) for text in _by_worst_node(failed)]


def _by_worst_node(failed: Mapping[tuple[str, str], str]) -> Iterator[str]:
    """One line for the node that most failed pairs have in common, then for the next, until all pairs are told."""
    left = dict(failed)
    while left:
        worst = Counter(node for pair in left for node in pair).most_common(1)[0][0]
        own = {pair: why for pair, why in left.items() if worst in pair}
        to, by = [b for a, b in own if a == worst], [a for a, b in own if b == worst]
        parts = [f"does not reach {name_nodes(to)}"] if to else []
        parts += [f"is not reached from {name_nodes(by)}"] if by else []
        yield f"{worst} {' and '.join(parts)}: {', '.join(dict.fromkeys(own.values()))}"
        left = {pair: why for pair, why in left.items() if pair not in own}


def check_names(doors: Mapping[str, Door]) -> list[Check]:
    """A host name that stands for the loopback, as Debian's installer writes it, keeps ranks of two nodes apart."""
    wrong = {node: door for node, door in doors.items() if _is_loopback(door.named) and not _is_loopback(door.address)}
    if not wrong:
        return [Check("ok", "host names", "each node's name stands for an address that others can reach")]
    interfaces = {door.interface for door in wrong.values()}
    remedy = "give the node's own name its address in /etc/hosts"
    if len(interfaces) == 1:
        remedy += f", or set cluster.env.{_GLOO}={interfaces.pop()}"
    detail = "the own name of {} stands for {}, which no other node can reach"
    return [Check("problem", "host names", detail.format(node, door.named), remedy) for node, door in wrong.items()]


def _is_loopback(address: str) -> bool:
    return bool(address) and ipaddress.ip_address(address.partition("%")[0]).is_loopback
