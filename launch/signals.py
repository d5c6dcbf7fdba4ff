"""What signals mean to a command that starts or follows a run."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from orchestrator.core.words import ExitCode

Handler = Callable[[int, FrameType | None], None]


@contextmanager
def heeding(handlers: Mapping[signal.Signals, Handler]) -> Iterator[None]:
    """Handle these signals inside the block; a thread that is not the main one cannot, and leaves them as they are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(number: int, _frame: FrameType | None) -> None:
    """While there is no run to be stopped yet, the command goes, and says why by its exit code."""
    sys.exit(ExitCode.PREEMPTED if number == signal.SIGUSR1 else ExitCode.STOPPED)


LEAVING: Mapping[signal.Signals, Handler] = {signal.SIGTERM: leave, signal.SIGUSR1: leave}
