"""This machine as a place for a run: its local Ray is one node, and its processes can be seen from here."""

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from launch.chaos.find import find_writer
from launch.chaos.watch import Process


class Machine:
    address = "local"

    def start(self, command: Sequence[str], log: Path) -> subprocess.Popen[str]:
        with log.open("w") as output:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, text=True)

    def send(self, process: Process, number: signal.Signals) -> None:
        """ProcessLookupError when it is gone."""
        os.kill(process.pid, number)

    def find_actor(self, _host: str, log: Path) -> Process | None:
        """The process that writes this log."""
        pid = find_writer(log)
        return Process("", pid) if pid is not None else None
