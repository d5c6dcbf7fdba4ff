"""Which process writes a log. Every process of a run has one of its own, as its standard output (control/logs.py).

`python -m launch.chaos.find LOG` does so inside of a host."""

import sys
from pathlib import Path

import psutil


def find_writer(log: Path) -> int | None:
    """None when there is none now, as while a dead one is being replaced."""
    for process in psutil.process_iter():
        try:
            if Path(f"/proc/{process.pid}/fd/1").readlink() == log and process.status() != psutil.STATUS_ZOMBIE:
                return process.pid
        except (psutil.NoSuchProcess, OSError):  # it has gone meanwhile, or is somebody else's
            continue
    return None


if __name__ == "__main__":
    found = find_writer(Path(sys.argv[1]))
    sys.exit(1) if found is None else print(found)
