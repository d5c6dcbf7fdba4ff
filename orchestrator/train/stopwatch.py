"""Times a stretch of work on a device without making it wait, on CUDA by events that are read later; and the parts of a
beginning."""

import time

import torch

from orchestrator.core.clock import Clock


class Stopwatch:
    def __init__(self, device: torch.device) -> None:
        self._events = _make_events() if device.type == "cuda" else None
        self._started = self._seconds = 0.0

    def start(self) -> None:
        if self._events is not None:
            self._events[0].record()
        self._started = time.perf_counter()

    def stop(self) -> None:
        if self._events is not None:
            self._events[1].record()
        self._seconds = time.perf_counter() - self._started

    @property
    def seconds(self) -> float:
        """Of the last stretch; on CUDA to be asked when the device has got past it."""
        if self._events is None:
            return self._seconds
        started, stopped = self._events
        return float(started.elapsed_time(stopped)) / 1e3


class Laps:
    """What the parts of something took, one after another."""

    def __init__(self, clock: Clock, seconds: dict[str, float]) -> None:
        self.seconds = seconds  # those known before it began
        self._clock, self._last = clock, clock.monotonic()

    def end(self, part: str) -> None:
        """What was done since the last one ended was this part, or more of it."""
        now = self._clock.monotonic()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._last
        self._last = now


def _make_events() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
