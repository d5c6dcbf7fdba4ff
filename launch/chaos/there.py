"""A cluster that is there already as a place for a run: on each of its nodes a small actor sends the signals. Its nodes
themselves are left alone: whoever owns them knows how they die, and come."""

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from launch.chaos.find import find_writer
from launch.chaos.stage import start_here
from launch.chaos.watch import Process
from orchestrator.control.connect import connected

_START_TIMEOUT_S, _ANSWER_TIMEOUT_S = 120.0, 10.0


class Hand:
    """The Ray actor of one node. It ends with the command that made it."""

    def send(self, pid: int, number: int) -> None:
        os.kill(pid, number)

    def find_writer(self, log: Path) -> int | None:
        return find_writer(log)


class There:
    def __init__(self, address: str) -> None:
        self.address = address
        self._hands: dict[str, Any] = {}  # by the id of the node

    @classmethod
    @contextmanager
    def open(cls, address: str) -> Iterator[Self]:
        """Nodes that are there when the block begins are struck at once; a hand for one that comes later takes a
        moment."""
        with connected(address):
            there = cls(address)
            hands = [there._hand_on(node["NodeID"]) for node in ray.nodes() if node["Alive"]]
            ray.get([hand.__ray_ready__.remote() for hand in hands], timeout=_START_TIMEOUT_S)
            yield there

    def start(self, command: Sequence[str], log: Path) -> subprocess.Popen[str]:
        """On this machine, from where the cluster can be reached."""
        return start_here(command, log)

    def send(self, process: Process, number: signal.Signals) -> None:
        """ProcessLookupError when it is gone, or its node."""
        self._ask(process.host, "send", process.pid, int(number))

    def find_actor(self, host: str, log: Path) -> Process | None:
        pid = self._ask(host, "find_writer", log)
        return Process(host, pid) if pid is not None else None

    def _ask(self, host: str, method: str, *arguments: Any) -> Any:
        node_id = _find_node(host)
        try:
            return ray.get(getattr(self._hand_on(node_id), method).remote(*arguments), timeout=_ANSWER_TIMEOUT_S)
        except RayError as error:
            raise ProcessLookupError(f"node {host}: {error}") from error

    def _hand_on(self, node_id: str) -> Any:
        if node_id not in self._hands:
            strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
            self._hands[node_id] = ray.remote(Hand).options(num_cpus=0, scheduling_strategy=strategy).remote()
        return self._hands[node_id]


def _find_node(host: str) -> str:
    """By the name that it gives itself, or the address that Ray knows it by."""
    for node in ray.nodes():
        if node["Alive"] and host in (node["NodeManagerHostname"], node["NodeManagerAddress"]):
            return str(node["NodeID"])
    raise ProcessLookupError(f"no node {host} is alive")
