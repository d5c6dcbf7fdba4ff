"""A process that dies: its work is done in a fork that never tidies up, as after SIGKILL."""

import os
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def do_and_die(work: Callable[[], object]) -> None:
    """Do all of `work` elsewhere; nothing is closed or flushed afterwards. Raises if it failed."""
    child = _fork(work)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "the forked work failed, see its traceback above"


def do_until_killed(work: Callable[[], object], after_s: float, wait: Callable[[], object] = lambda: None) -> None:
    """Begin `work` elsewhere and kill it, so long after `wait` has returned."""
    child = _fork(work)
    wait()
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, "the forked work ended by itself, see above"


def _fork(work: Callable[[], object]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        _let_go_of_connections()
        work()
        code = 0
    except BaseException:  # noqa: BLE001 (told on stderr; the fork must not run on into pytest)
        traceback.print_exc()
    finally:
        os._exit(code)


def _let_go_of_connections() -> None:
    """They are those of the process that was forked: a client that closes them here takes them out of the event loop
    there, which then waits in vain for an answer."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for handle in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the listing
            if str(handle.readlink()).startswith(("socket:", "anon_inode:[eventpoll]")):
                os.dup2(nothing, int(handle.name))
