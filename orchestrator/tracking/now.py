"""now.json: what the controller sees at this moment, for people. Nothing in a run depends on it; it may be a second
old, and it stays behind when a controller dies, so readers look at `t` and at the lease."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.storage.publish import publish_json, read_json

NOW_FILE = "now.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeOffer:
    """One node of the cluster against what the run asks of a node. `why_not` is empty when it would do."""

    host: str
    node_id: str
    free: dict[str, float]
    total: dict[str, float]
    why_not: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """The run waits for nodes, since `since` (seconds since the epoch)."""

    since: float
    asked: dict[str, float]  # of each node
    needed: int  # cluster.nodes.min
    wanted: int  # cluster.nodes.max
    ready: int
    nodes: list[NodeOffer]

    def describe(self) -> str:
        """What is asked against what each node offers, in one line."""
        asked = ", ".join(f"{amount:g} {name}" for name, amount in self.asked.items())
        offers = [f"{node.host}: {node.why_not or 'fits'}" for node in self.nodes]
        return f"each node must offer {asked}; " + ("; ".join(offers) or "no node is alive")


@dataclass(frozen=True, kw_only=True, slots=True)
class RankNow:
    """One rank. `busy_s`: of its last step, what it computed and read before it first waited for others."""

    rank: int | None  # None until it has its place in a world
    host: str
    local_rank: int | None  # its seat; None: it has not had one
    pid: int
    state: str  # control.jobs.RankState
    step: int
    phase: str
    busy_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Now:
    t: float
    generation: int
    phase: str  # control.policy.Phase
    waiting: Waiting | None = None
    ranks: list[RankNow] = field(default_factory=list)


def write_now(run_dir: Path, now: Now) -> None:
    publish_json(run_dir / NOW_FILE, {"format": 1, **asdict(now)}, durable=False)


def read_now(run_dir: Path) -> Now | None:
    """None before the controller has looked for the first time."""
    path = run_dir / NOW_FILE
    if not path.exists():
        return None
    fields: dict[str, Any] = read_json(path)
    del fields["format"]
    waiting = fields.pop("waiting")
    ranks = [RankNow(**rank) for rank in fields.pop("ranks")]
    return Now(**fields, waiting=_waiting_of(waiting) if waiting else None, ranks=ranks)


def _waiting_of(fields: dict[str, Any]) -> Waiting:
    return Waiting(**{**fields, "nodes": [NodeOffer(**node) for node in fields["nodes"]]})
