"""A bell, rung for whatever should be seen at once: on a node a beat of the controller waits for it (node.py), in the
controller its next look round (controller.py)."""

import threading


class Bell:
    def __init__(self) -> None:
        self._rung = threading.Condition()
        self.version = 0  # how often

    def ring(self) -> None:
        with self._rung:
            self.version += 1
            self._rung.notify_all()

    def wait(self, version: int, timeout_s: float) -> None:
        """Until it has been rung since that version; not longer than so many seconds."""
        with self._rung:
            self._rung.wait_for(lambda: self.version != version, timeout_s)
