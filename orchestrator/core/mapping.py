"""How work on many things is handed out: somebody maps a function over jobs, somebody hears how far it is.

Who maps is chosen at the front door: this process, processes of this machine (importing/workers.py), or Ray tasks
(control/fleet.py). Results come in any order and any job may run twice, so what a job leaves must be the same."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

J = TypeVar("J")
R = TypeVar("R")


class RunAll(Protocol):
    """Maps a function over jobs; results in any order."""

    def __call__(self, function: Callable[[J], R], jobs: Iterable[J], /) -> Iterator[R]: ...


class Progress(Protocol):
    """Hears what is done now: the stage, and how many of its jobs are through."""

    def __call__(self, stage: str, done: int, total: int, /) -> None: ...


def run_serially(function: Callable[[J], R], jobs: Iterable[J], /) -> Iterator[R]:
    """One job after another in this process."""
    return map(function, jobs)


def tell_nobody(stage: str, done: int, total: int, /) -> None: ...
