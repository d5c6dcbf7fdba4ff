"""Carries the news of a node's ranks to the scribe, and what belongs into the journal to the controller.

One thread, in order: nobody hears that news are on disk before they are. Whoever does not answer is asked again."""

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
GATHER_S = 0.01  # ranks tell of a step at about the same time: one call has all of it
_FOR_CONTROLLER = (CheckpointNews, TroubleNews, BegunNews, VoidedNews)
_FOR_CONTROLLER_ONLY = (CheckpointNews, BegunNews)


class Courier:
    def __init__(self, run: RunHandle) -> None:
        self._run = run
        self._parcels: queue.Queue[tuple[Sequence[News], Callable[[], None]]] = queue.Queue()
        threading.Thread(target=self._deliver_all, name="courier", daemon=True).start()

    def carry(self, news: Sequence[News], delivered: Callable[[], None]) -> None:
        self._parcels.put((news, delivered))

    def _deliver_all(self) -> None:
        for actor in ("scribe", "controller"):  # what Ray imports for the first call, it imports while ranks warm up
            with suppress(RayError, ValueError):
                self._find(actor)
        while True:
            parcels = [self._parcels.get()]
            time.sleep(GATHER_S)
            while not self._parcels.empty():
                parcels.append(self._parcels.get())
            news = [one for some, _ in parcels for one in some]
            self._deliver("scribe", "write", [one for one in news if not isinstance(one, _FOR_CONTROLLER_ONLY)])
            self._deliver("controller", "note", [one for one in news if isinstance(one, _FOR_CONTROLLER)])
            for _, delivered in parcels:
                delivered()

    def _deliver(self, actor: str, method: str, news: list[Any]) -> None:
        """Repeat until the receiver has said yes: it may be dying and coming back, and it knows doubles."""
        while news:
            try:
                ray.get(getattr(self._find(actor), method).remote(news), timeout=ANSWER_TIMEOUT_S)
            except (RayError, ValueError) as error:  # dead, slow, or its disk is full; ValueError: no such actor
                log.warning("the %s does not answer, trying again: %s", actor, error)
                time.sleep(PAUSE_S)
            else:
                return

    def _find(self, actor: str) -> Any:
        return ray.get_actor(self._run.actor_name(actor), namespace=self._run.namespace)
