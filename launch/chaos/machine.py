"""This machine as a place for a run: its local Ray is one node, and its processes can be seen from here."""

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from launch.chaos.find import find_writer
from launch.chaos.stage import start_here
from launch.chaos.watch import Process


class Machine:
    address = "local"

    def start(self, command: Sequence[str], log: Path) -> subprocess.Popen[str]:
        return start_here(command, log)

    def send(self, process: Process, number: signal.Signals) -> None:
        os.kill(process.pid, number)

    def find_actor(self, _host: str, log: Path) -> Process | None:
        pid = find_writer(log)
        return Process("", pid) if pid is not None else None
