"""Reads the stacks that faulthandler writes of a rank: where it is, and whether it waits for other ranks there."""

import re
from typing import NamedTuple

_THREAD = re.compile(r"^(?P<current>Current thread|Thread) 0x[0-9a-f]+")
_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)$')
_INNERMOST = 4  # frames: below the call that waits, a wrapper or two of torch's
# what ranks wait in for each other: collectives, forming groups, and the handles of collectives under way
_WAITING = re.compile(r"/torch/distributed/|/deepspeed/comm/|/deepspeed/runtime/zero/partition_parameters\.py$")
_DEVICE = re.compile(r"/torch/cuda/")  # which may be waiting for a collective


class Frame(NamedTuple):
    file: str
    line: int
    function: str


def read_threads(text: str) -> list[list[Frame]]:
    """Frames of each thread, the innermost first; the thread that was interrupted, or else the main one, first."""
    threads: list[list[Frame]] = []
    current = -1
    for line in text.splitlines():
        if match := _THREAD.match(line):
            current = len(threads) if match["current"] == "Current thread" else current
            threads.append([])
        elif threads and (match := _FRAME.match(line)):
            threads[-1].append(Frame(match["file"], int(match["line"]), match["function"]))
    if threads:
        threads.insert(0, threads.pop(current))  # the oldest, which is the main one, comes last
    return threads


def waits_for_others(text: str) -> bool:
    """Backward may go through its hooks in threads of autograd, so one thread that waits is enough."""
    return any(_waits(thread) for thread in read_threads(text))


def describe_place(text: str) -> str:
    """The innermost frame, for people."""
    threads = read_threads(text)
    if not threads or not threads[0]:
        return "code without a Python frame"
    frame = threads[0][0]
    return f"{frame.function} ({frame.file}:{frame.line})"


def _waits(thread: list[Frame]) -> bool:
    return any(_WAITING.search(frame.file) or _DEVICE.search(frame.file) for frame in thread[:_INNERMOST])
