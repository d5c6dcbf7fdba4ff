"""What a process of a run prints goes into the run's own logs/, also what libraries print past Python."""

import logging
import os
import sys
from pathlib import Path


def keep_output(folder: Path, name: str) -> None:
    """From here on, stdout, stderr and log records of this process are appended to <folder>/<name>.log."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / f"{name}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
