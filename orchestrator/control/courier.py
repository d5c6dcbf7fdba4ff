"""Carries the news of a node's ranks to the scribe, and then what belongs into the journal to the controller.

A thread for each, in order: nobody hears that news are on disk before they are. Whoever does not answer is asked again.
While the controller is away rows get to disk all the same, else no snapshot would count until it is back."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError

from orchestrator.control.jobs import RunHandle
from orchestrator.core.news import BegunNews, CheckpointNews, News, TroubleNews, VoidedNews

log = logging.getLogger(__name__)
ANSWER_TIMEOUT_S = 30.0
PAUSE_S = 0.2
_FOR_CONTROLLER = (CheckpointNews, TroubleNews, BegunNews, VoidedNews)
_FOR_CONTROLLER_ONLY = (CheckpointNews, BegunNews)
Parcel = tuple[Sequence[News], Callable[[], None]]  # and who is to hear that it has been delivered


class Courier:
    def __init__(self, run: RunHandle) -> None:
        self._run = run
        self._found: dict[str, Any] = {}  # by name, until they do not answer
        self._for_scribe: queue.Queue[Parcel] = queue.Queue()
        self._for_controller: queue.Queue[Parcel] = queue.Queue()
        for target in (self._serve_scribe, self._serve_controller):
            threading.Thread(target=target, name="courier", daemon=True).start()

    def carry(self, news: Sequence[News], delivered: Callable[[], None]) -> None:
        """`delivered` is called when all of it is on disk, but for the word that a world has begun."""
        self._for_scribe.put((news, delivered))

    def _serve_scribe(self) -> None:
        self._get_ready("scribe")
        while True:
            parcels = _take_all(self._for_scribe)
            news = [one for some, _ in parcels for one in some]
            self._deliver("scribe", "write", [one for one in news if not isinstance(one, _FOR_CONTROLLER_ONLY)])
            for some, delivered in parcels:
                self._pass_on([one for one in some if isinstance(one, _FOR_CONTROLLER)], delivered)

    def _pass_on(self, news: Sequence[News], delivered: Callable[[], None]) -> None:
        if all(isinstance(one, BegunNews) for one in news):
            delivered()
            delivered = _tell_nobody
        if news:
            self._for_controller.put((news, delivered))

    def _serve_controller(self) -> None:
        self._get_ready("controller")
        while True:
            parcels = _take_all(self._for_controller)
            self._deliver("controller", "note", [one for some, _ in parcels for one in some])
            for _, delivered in parcels:
                delivered()

    def _get_ready(self, actor: str) -> None:
        """What Ray imports for the first call, it imports while ranks warm up."""
        with suppress(RayError, ValueError):
            self._find(actor)

    def _deliver(self, actor: str, method: str, news: list[Any]) -> None:
        """Repeat until the receiver has said yes: it may be dying and coming back, and it knows doubles."""
        while news:
            try:
                ray.get(getattr(self._find(actor), method).remote(news), timeout=ANSWER_TIMEOUT_S)
            except (RayError, ValueError) as error:  # dead, slow, or its disk is full; ValueError: no such actor
                log.warning("the %s does not answer, trying again: %s", actor, error)
                self._found.pop(actor, None)  # there may be another one by now
                time.sleep(PAUSE_S)
            else:
                return

    def _find(self, actor: str) -> Any:
        if actor not in self._found:
            self._found[actor] = ray.get_actor(self._run.actor_name(actor), namespace=self._run.namespace)
        return self._found[actor]


def _take_all(parcels: "queue.Queue[Parcel]") -> list[Parcel]:
    """At least one."""
    taken = [parcels.get()]
    while not parcels.empty():
        taken.append(parcels.get())
    return taken


def _tell_nobody() -> None:
    """Of what nobody waits for."""
