"""What travels between controller, node actors and ranks: plain frozen data."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from orchestrator.checkpoint.shelf import Address
from orchestrator.core.news import News
from orchestrator.core.words import RunState, World


@dataclass(frozen=True, kw_only=True, slots=True)
class RunHandle:
    """Names a run inside Ray: actors are called `<key>:<what>`."""

    path: Path
    key: str
    namespace: str = "longhaul"

    def actor_name(self, what: str) -> str:
        return f"{self.key}:{what}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RankSetup:
    """What a rank is made with, before it has a place in a world."""

    name: str
    host: str
    logs: Path
    board: str
    node_actor_pid: int
    device: str
    threads: int
    env: dict[str, str]


@dataclass(frozen=True, slots=True)
class StoreSetup:
    """Asks the nursery for a rendezvous store on this address."""

    host: str


@dataclass(frozen=True, slots=True)
class NewsParcel:
    """News on its way from a rank to the scribe; answered when it is on disk."""

    news: tuple[News, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RankJob:
    """Everything one rank needs for one generation."""

    run: RunHandle
    generation: int
    world: World
    micro_batch: int
    accumulation: int
    store_host: str
    store_port: int
    timeout_s: float
    start: Address | None


class RankState(StrEnum):
    WARMING = "warming"
    READY = "ready"
    TRAINING = "training"
    ENDED = "ended"
    RAISED = "raised"
    DIED = "died"


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """What went wrong on one rank. `collateral`: it only noticed that another rank was gone."""

    rank: int
    node: str
    step: int
    kind: str
    message: str
    traceback: str
    t: float
    collateral: bool
    exit_code: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class RankEnd:
    """How the trainer of one rank ended without a problem."""

    state: RunState
    step: int
    reason: str = ""  # why it is done early, or has stopped unasked: then the run can go on later


@dataclass(frozen=True, kw_only=True, slots=True)
class RankReport:
    rank: int | None  # None until it has its place in a world
    local_rank: int
    pid: int
    state: RankState
    step: int = 0
    phase: str = ""
    busy_s: float = 0.0
    end: RankEnd | None = None
    problem: Problem | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparerReport:
    """How preparing ahead stands. `problem`: why it cannot go on."""

    pid: int
    segments: int
    expected: int
    done: bool = False
    problem: str = ""
    exit_code: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeReport:
    """One node actor's answer to a beat."""

    node_id: str
    host: str
    identity: str  # tracking.lease.host_identity, where the pids mean something
    pid: int
    ranks: tuple[RankReport, ...]
    store: tuple[str, int] | None
