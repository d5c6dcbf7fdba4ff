"""The order of a run whose data is still being prepared: whoever asks for a step waits until its segments are there.

Between order.py and the makers of batches. What is answered is what the order over all segments would answer, so how
fast data is prepared decides when a step is fed, never what it is fed."""

import time
from collections.abc import Callable
from threading import Lock
from typing import Protocol

from orchestrator.config.run import RunConfig
from orchestrator.core.errors import NotPrepared
from orchestrator.core.words import Span
from orchestrator.data.ordering.order import Dataset, Order, Slots
from orchestrator.data.ordering.unit import Ints, Unit
from orchestrator.data.shards.manifest import Manifest

POLL_S = 0.25  # a look at one small file, by every rank that waits


def validated_on(config: RunConfig, manifest: Manifest) -> Manifest:
    """What of the data validation takes its samples from. While more is being prepared it is the first segment,
    however much there is by now, so that losses can be compared."""
    return manifest.first(1) if config.prepare.mode == "ahead" else manifest


class GrowingDataset(Dataset, Protocol):
    """What growing needs of a manifest."""

    def grow(self) -> bool:
        """Take in what has been prepared meanwhile; whether there was anything."""
        ...


class GrowingOrder:
    """An Order that waits. Any number of threads may ask; `may_wait` is asked all the while, and once it says no, a
    step that is not prepared is raised as NotPrepared."""

    def __init__(
        self, config: RunConfig, dataset: GrowingDataset, may_wait: Callable[[], bool], poll_s: float = POLL_S
    ) -> None:
        self._config, self._dataset, self._may_wait, self._poll_s = config, dataset, may_wait, poll_s
        self._lock = Lock()
        self._order = Order.of(config, dataset)

    @property
    def known(self) -> Order:
        """The order as far as it is known now."""
        return self._order

    def batch_size(self, step: int) -> int:
        return self._order.batch_size(step)

    def seq_len(self, step: int) -> int | None:
        return self._order.seq_len(step)

    def slots(self, step: int) -> Slots:
        while True:
            order = self._order
            try:
                return order.slots(step)
            except NotPrepared:
                if not self._has_grown(order):
                    if not self._may_wait():
                        raise
                    time.sleep(self._poll_s)

    def spans(self, slots: Slots, i: int) -> list[Span]:
        return self._order.spans(slots, i)

    def unit(self, source: int, number: int) -> Unit:
        return self._order.unit(source, number)

    def epochs(self, slots: Slots) -> Ints:
        return self._order.epochs(slots)

    def _has_grown(self, seen: Order) -> bool:
        """Whether more is known than in the order that was `seen`, by this thread or another."""
        with self._lock:
            if self._dataset.grow():
                self._order = Order.of(self._config, self._dataset)
            return self._order is not seen
