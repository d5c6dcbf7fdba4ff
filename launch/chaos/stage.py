"""Where a run is broken: machine.py, hosts.py and there.py are such places; drills.py and strike.py use them."""

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from launch.chaos.watch import Process


class Stage(Protocol):
    @property
    def address(self) -> str:
        """Of its Ray, as for `cluster.address`."""
        ...

    def start(self, command: Sequence[str], log: Path) -> subprocess.Popen[str]: ...

    def send(self, process: Process, number: signal.Signals) -> None:
        """ProcessLookupError when it is gone."""
        ...

    def find_actor(self, host: str, log: Path) -> Process | None:
        """The process on that host that writes this log; None when there is none now."""
        ...


def start_here(command: Sequence[str], log: Path) -> subprocess.Popen[str]:
    with log.open("w") as output:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, text=True)
