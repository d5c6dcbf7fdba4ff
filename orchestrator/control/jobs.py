"""What travels between controller, node actors and ranks: plain frozen data."""

from dataclasses import dataclass, field
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


@dataclass(frozen=True, slots=True)
class VaultAddress:
    """Where other nodes reach a node's vault, and the token that opens it."""

    host: str
    port: int
    token: str = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class VaultDoor:
    """Where a rank reaches the vault of its node, an abstract Unix socket, and the slots that it fills."""

    socket: str
    token: str = field(repr=False)
    local_rank: int
    slots: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class VaultSetup:
    """What a vault's process is made with. Slots are the node actor's and outlive it."""

    run: "RunHandle"
    host: str
    port: int  # 0: any
    socket: str
    token: str = field(repr=False)
    own: tuple[tuple[str, ...], ...]  # slots by local rank
    mirrors: tuple[tuple[str, ...], ...]  # by local rank of the node whose buddy this one is


@dataclass(frozen=True, slots=True)
class PartAt:
    """A rank's part of a snapshot: in that slot, behind that vault."""

    vault: VaultAddress
    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotStart:
    """A snapshot to go on from."""

    generation: int
    step: int
    parts: tuple[tuple[PartAt, ...], ...]  # by rank, its copies: the first that can be read is taken


@dataclass(frozen=True, kw_only=True, slots=True)
class RankSetup:
    """What a rank process is made with, before it has a seat or a place in a world."""

    run: Path
    host: str
    board: str
    stacks: str  # where it writes its stacks when it is asked to
    node_actor_pid: int
    device: str  # "cpu" or "cuda"
    threads: int
    env: dict[str, str]


@dataclass(frozen=True, slots=True)
class Seat:
    """A rank's place on its node: its device ("cpu", "cuda:1"), and the slots of the vault that are its own."""

    device: str
    vault: VaultDoor


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
    start: Address | SnapshotStart | None
    snapshots: bool  # whether there is memory for them
    buddy: VaultAddress | None  # of the next node in the ring; None: nobody mirrors
    leave_at: int | None = None  # leave this world when so many updates are done


@dataclass(frozen=True, slots=True)
class Assignment:
    """Sent to a rank process by its node actor: from now on it is that rank, in that seat."""

    job: RankJob
    seat: Seat


@dataclass(frozen=True, slots=True)
class Abort:
    """Sent to a rank process: whatever holds you up in this generation or an earlier one, get out of it."""

    generation: int


@dataclass(frozen=True, slots=True)
class ShowStacks:
    """Sent to a rank process: write down where you are."""


@dataclass(frozen=True, slots=True)
class Free:
    """Told by a rank process: it can take a job. At first it is warm then; after RankEnd or Problem, engine and process
    groups are gone."""


class RankState(StrEnum):
    """Of a process. ENDED and RAISED also say how its last job went, until it gets another; is_free, whether it can."""

    WARMING = "warming"
    READY = "ready"  # has had no job yet: a spare, or about to begin
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

    state: RunState  # RUNNING: it has left this world for the next one
    step: int
    reason: str = ""  # why it is done early, or has stopped unasked (then the run can go on later), or left unasked
    back_to: int | None = None  # left unasked: the run goes on from the newest state of at most so many updates


@dataclass(frozen=True, kw_only=True, slots=True)
class RankReport:
    rank: int | None  # None until it has its place in a world
    local_rank: int | None  # its seat
    pid: int
    state: RankState
    is_free: bool = False  # can take a job now
    generation: int = 0  # of its last job
    trained: bool = False  # it has begun the first step of that job
    evidence: str = ""  # why its node actor ended it, and where the stacks lie
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
    store: tuple[str, int] | None  # every node keeps one; the first node's is used
    vault: VaultAddress | None  # None: not listening yet
    generation: int = 0  # that it heard of last: to be trained in, or to be left
    version: int = 0  # changes with everything that a controller should hear of at once
    notice: "Notice | None" = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """The machine is about to be taken away."""

    reason: str
    until: float  # seconds since the epoch
