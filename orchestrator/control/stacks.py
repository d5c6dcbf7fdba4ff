"""Stacks of a rank, as it or faulthandler in it writes them, and what they say: where it is, and whether it waits for
other ranks there."""

import re
import sys
import threading
import traceback
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


def describe_stacks() -> str:
    """Of all threads of this process, in the words of faulthandler; the main one counts as the current one."""
    main = threading.main_thread().ident
    lines: list[str] = []
    for ident, innermost in sys._current_frames().items():
        lines.append(f"{'Current thread' if ident == main else 'Thread'} 0x{ident:016x} (most recent call first):")
        for frame, number in traceback.walk_stack(innermost):
            lines.append(f'  File "{frame.f_code.co_filename}", line {number} in {frame.f_code.co_name}')
    return "\n".join([*lines, ""])


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
