"""A clock for what looks again and again: between two looks, the next thing happens."""

from collections.abc import Callable, Sequence

from tests.fakes.clock import FakeClock


class ScriptedClock:
    """Time is that of another clock, which what happens may move. When nothing more is to happen, looking again is a
    mistake of the test."""

    def __init__(self, clock: FakeClock, script: Sequence[Callable[[], object]]) -> None:
        self._clock, self._script = clock, list(script)

    def now(self) -> float:
        return self._clock.now()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def sleep(self, seconds: float) -> None:
        self._clock.sleep(seconds)
        self._script.pop(0)()
