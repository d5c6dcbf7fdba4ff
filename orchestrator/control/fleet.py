"""The fleet: maps a pure function over jobs as Ray tasks. Prepare runs on it. A dead worker costs only its job."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import ray
from ray.exceptions import RayTaskError

from orchestrator.core.errors import LonghaulError

J = TypeVar("J")
R = TypeVar("R")


def run_all(function: Callable[[J], R], jobs: Iterable[J], cpus: int | None = None) -> Iterator[R]:
    """Results as they come. At most two jobs a CPU are under way: back-pressure for whoever makes the jobs. With `cpus`
    no more than so many, since others need the rest."""
    task = ray.remote(function).options(num_cpus=1, max_retries=3)
    limit = cpus or max(2, 2 * int(ray.cluster_resources().get("CPU", 1)))
    running: list[Any] = []
    for job in jobs:
        if len(running) >= limit:
            yield _next_result(running)
        running.append(task.remote(job))
    while running:
        yield _next_result(running)


def _next_result(running: list[Any]) -> Any:
    done, rest = ray.wait(running, num_returns=1)
    running[:] = rest
    try:
        return ray.get(done[0])
    except RayTaskError as error:
        for other in rest:
            ray.cancel(other)
        cause = error.cause
        if isinstance(cause, LonghaulError):
            raise cause from None
        raise
