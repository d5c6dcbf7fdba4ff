"""A command of a person on another machine, as there.py has it run on the cluster: the same command line, plus a sign
of life now and then, and an end after a while, since nobody tells it when that person has gone."""

import os
import sys
import threading
import time

from launch.remote.arrival import main

BEAT_S = 5.0
LONGEST_S = 600.0
AGAIN = 86  # exit code: this call has lasted long enough, call again


def beat() -> None:
    """Empty lines, so that a broken connection is noticed at the other end."""
    deadline = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline:
        time.sleep(BEAT_S)
        sys.stdout.write("\n")
        sys.stdout.flush()
    os._exit(AGAIN)


if __name__ == "__main__":
    threading.Thread(target=beat, daemon=True).start()
    main()
