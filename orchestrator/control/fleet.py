"""The fleet: maps a pure function over jobs as Ray tasks. Prepare runs on it. A dead worker costs only its job."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import ray
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.control.connect import alive_nodes
from orchestrator.core.errors import LonghaulError

J = TypeVar("J")
R = TypeVar("R")
NO_NODE_S = 1.0  # between looks for one


def run_all(function: Callable[[J], R], jobs: Iterable[J]) -> Iterator[R]:
    """Results as they come. At most two jobs a CPU are under way: back-pressure for whoever makes the jobs."""
    task = ray.remote(function).options(num_cpus=1, max_retries=3)
    limit = max(2, 2 * int(ray.cluster_resources().get("CPU", 1)))
    running: dict[Any, str] = {}
    for job in jobs:
        if len(running) >= limit:
            yield _next_result(running)
        running[task.remote(job)] = "anywhere"
    while running:
        yield _next_result(running)


def run_beside(function: Callable[[J], R], jobs: Iterable[J], cpus: int) -> Iterator[R]:
    """The same on at most `cpus` CPUs of each node, so that whoever asks for the rest of a node gets it."""
    task = ray.remote(function)
    running: dict[Any, str] = {}
    for job in jobs:
        while (node := _find_room(running, cpus)) is None:
            if running:
                yield _next_result(running)
            else:
                time.sleep(NO_NODE_S)
        strategy = NodeAffinitySchedulingStrategy(node, soft=True)  # elsewhere if it dies
        running[task.options(num_cpus=1, max_retries=3, scheduling_strategy=strategy).remote(job)] = node
    while running:
        yield _next_result(running)


def _find_room(running: Mapping[Any, str], cpus: int) -> str | None:
    """The node with most of these CPUs free."""
    used = Counter(running.values())
    room = {node.node_id: min(cpus, node.cpus) - used[node.node_id] for node in alive_nodes()}
    return max((node for node in room if room[node] > 0), key=room.__getitem__, default=None)


def _next_result(running: dict[Any, str]) -> Any:
    done, rest = ray.wait(list(running), num_returns=1)
    del running[done[0]]
    try:
        return ray.get(done[0])
    except RayTaskError as error:
        for other in rest:
            ray.cancel(other)
        cause = error.cause
        if isinstance(cause, LonghaulError):
            raise cause from None
        raise
