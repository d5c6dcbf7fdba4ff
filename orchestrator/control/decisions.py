"""What the policy can decide. Each is written down before it is acted on (control/acting.py)."""

from dataclasses import dataclass
from typing import Literal

from orchestrator.control.blame import BadNode, Fault
from orchestrator.control.membership import Leaving
from orchestrator.core.words import ExitCode, RunState

Why = Literal["start", "fault", "resize", "back"]


@dataclass(frozen=True, slots=True)
class StartNodes:
    """Put node actors with warming ranks onto these nodes, whose groups are ready."""

    node_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Give back the groups that are ready: others may be waiting for them, as this run waits for theirs."""

    again_in_s: float


@dataclass(frozen=True, slots=True)
class Drop:
    """A node no longer answers: forget it, and remove its group."""

    name: str
    host: str
    reason: str


@dataclass(frozen=True, slots=True)
class Release:
    """Nobody needs this node any more: end its ranks, and give it back."""

    name: str
    host: str
    reason: str


@dataclass(frozen=True, slots=True)
class Avoid:
    bad: BadNode


@dataclass(frozen=True, slots=True)
class BurySpare:
    """A process has died that was warming up for its first job."""

    host: str
    pid: int
    evidence: str


@dataclass(frozen=True, slots=True)
class Break:
    """Abort the world. `back_to`: the run goes on from the newest state of at most so many updates."""

    fault: Fault
    back_to: int | None = None


@dataclass(frozen=True, slots=True)
class Kill:
    """End ranks that did not free themselves."""

    name: str
    host: str
    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Freed:
    """No rank is in the broken world any more. `evidence`: where those that were killed had been."""

    killed: tuple[int, ...]
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Leave:
    """Have all ranks leave the world at the next step boundary."""

    leaving: Leaving


@dataclass(frozen=True, slots=True)
class Left:
    step: int
    back_to: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Seek:
    """Look for the state that the next world goes on from."""


@dataclass(frozen=True, slots=True)
class Begin:
    """Give the ranks of these node actors their jobs, in this order."""

    world: tuple[str, ...]
    why: Why


@dataclass(frozen=True, slots=True)
class Stop:
    """Have all ranks stop at the next step boundary, with a checkpoint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finish:
    state: RunState
    exit_code: ExitCode
    reason: str = ""
    step: int | None = None
    culprits: tuple[int, ...] = ()


Decision = (
    StartNodes
    | GiveBack
    | Drop
    | Release
    | Avoid
    | BurySpare
    | Break
    | Kill
    | Freed
    | Leave
    | Left
    | Seek
    | Begin
    | Stop
    | Finish
)
