"""What a rank's exception means: its own fault, or only the echo of another rank's death."""

import time
import traceback
from collections.abc import Sequence

from orchestrator.control.jobs import Problem
from orchestrator.core.errors import LonghaulError
from orchestrator.core.words import ExitCode

# gloo, NCCL and the rendezvous store say so when the other side of a collective is gone
_ECHOES = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "failed to recv, got 0 bytes",
    "NCCL communicator was aborted",
    "remote process has terminated",
    "Timed out waiting",
)


# what a person can do about an error that is not ours, by words in its kind or message
_HINTS = (
    ("OutOfMemoryError", "set a smaller train.micro_batch, or a higher deepspeed.zero_optimization.stage"),
    ("out of memory", "set a smaller train.micro_batch, or a higher deepspeed.zero_optimization.stage"),
    ("ModuleNotFoundError", "install the module on every node"),
    ("No space left on device", "make room on the disk of root, then resume the run"),
    ("CUDA error", "run with cluster.env.CUDA_LAUNCH_BLOCKING='1' to see where it comes from"),
    ("Too many open files", "raise the limit of open files (ulimit -n) where Ray is started"),
)


def problem_of(error: BaseException, *, rank: int, node: str, step: int) -> Problem:
    own = isinstance(error, LonghaulError)
    text = str(error)
    return Problem(
        rank=rank,
        node=node,
        step=step,
        kind=type(error).__name__,
        message=text,
        traceback="" if own else "".join(traceback.format_exception(error)),
        t=time.time(),
        collateral=not own and isinstance(error, RuntimeError) and any(echo in text for echo in _ECHOES),
        exit_code=error.exit_code if isinstance(error, LonghaulError) else ExitCode.FAILED,
    )


def describe_problems(problems: Sequence[Problem]) -> str:
    """One text for people: the first cause on top, equal ones grouped, echoes counted."""
    causes = [p for p in problems if not p.collateral] or list(problems)
    echoes = len(problems) - len(causes)
    groups: dict[tuple[str, str], list[Problem]] = {}
    for problem in sorted(causes, key=lambda p: p.t):
        groups.setdefault((problem.kind, problem.message), []).append(problem)
    parts = []
    for (kind, message), members in groups.items():
        first = members[0]
        ranks = ", ".join(str(p.rank) for p in sorted(members, key=lambda p: p.rank))
        where = f"rank {ranks} on {first.node} at step {first.step}"
        trace = f"\n{first.traceback.rstrip()}{_hints(kind, message)}" if first.traceback else ""
        parts.append(f"{where}: {kind}: {message}{trace}")
    if echoes:
        parts.append(f"({echoes} other rank(s) only noticed that the connection was gone)")
    return "\n".join(parts)


def _hints(kind: str, message: str) -> str:
    return "".join(f"\n  -> {text}" for word, text in _HINTS if word in f"{kind}: {message}")
