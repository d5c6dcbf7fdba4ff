"""News on their way from a node: to the scribe, and to a controller that may be away."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError

from orchestrator.control import courier as courier_module
from orchestrator.control.courier import Courier
from orchestrator.control.jobs import RunHandle
from orchestrator.core.news import BegunNews, CheckpointNews, NoteNews

TIMEOUT_S = 10.0
RUN = RunHandle(path=Path("nowhere"), key="run")
BEGUN = BegunNews(generation=1, step=0, t=0.0, seconds={})
ROW = NoteNews(generation=1, step=1, t=0.0, text="a row")
CHECKPOINT = CheckpointNews(step=1, generation=1, folder="step-1", seconds=0.1, size_bytes=1)


@dataclass
class FakeRay:
    """Two actors: the scribe answers at once, the controller when it is there."""

    told: "queue.Queue[tuple[str, Any]]" = field(default_factory=queue.Queue)
    has_controller: threading.Event = field(default_factory=threading.Event)

    def get_actor(self, name: str, namespace: str) -> Any:
        class Method:
            def remote(self, news: list[Any]) -> tuple[str, list[Any]]:
                return name, news

        class Actor:
            write = note = Method()

        assert namespace == RUN.namespace
        return Actor()

    def get(self, call: tuple[str, list[Any]], timeout: float) -> None:
        name, news = call
        if name.endswith("controller") and not self.has_controller.is_set():
            raise ActorUnavailableError("it is away", None)
        for one in news:
            self.told.put((name.rpartition(":")[2], one))


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRay]:
    ray = FakeRay()
    monkeypatch.setattr(courier_module, "ray", ray)
    monkeypatch.setattr(courier_module, "PAUSE_S", 0.01)
    yield ray
    ray.has_controller.set()


def test_rows_are_settled_while_the_controller_is_away_and_a_world_begins(ray: FakeRay) -> None:
    courier, settled = Courier(RUN), threading.Semaphore(0)
    courier.carry([BEGUN], settled.release)
    courier.carry([ROW], settled.release)
    assert settled.acquire(timeout=TIMEOUT_S)
    assert settled.acquire(timeout=TIMEOUT_S)
    assert ray.told.get(timeout=TIMEOUT_S) == ("scribe", ROW)
    ray.has_controller.set()
    assert ray.told.get(timeout=TIMEOUT_S) == ("controller", BEGUN)


def test_what_belongs_into_the_journal_is_settled_when_it_is_there(ray: FakeRay) -> None:
    courier, settled, rows = Courier(RUN), threading.Event(), threading.Event()
    courier.carry([CHECKPOINT], settled.set)
    courier.carry([ROW], rows.set)
    assert rows.wait(TIMEOUT_S)
    assert not settled.is_set()
    ray.has_controller.set()
    assert settled.wait(TIMEOUT_S)
    assert [ray.told.get(timeout=TIMEOUT_S) for _ in range(2)] == [("scribe", ROW), ("controller", CHECKPOINT)]
