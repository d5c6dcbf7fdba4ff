"""The run directory: where everything of a run lies, and where the run stands as derived from it.

Its journal is the authority; whoever sees the directory needs no connection to know the state or to ask for a stop."""

import errno
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from orchestrator.core.clock import Clock
from orchestrator.core.drill import Drill
from orchestrator.core.errors import BadInput
from orchestrator.core.keyed import text_key
from orchestrator.core.words import Excerpt, ExitCode, RunState
from orchestrator.storage.publish import flush_folder, publish_json, read_json
from orchestrator.tracking.journal import Event, read_events
from orchestrator.tracking.lease import Lease, read_lease

CLAIM_TIMEOUT_S = 300.0  # a busy cluster may need minutes to start the controller's process

_STATE_AFTER = {
    "claimed": RunState.PENDING,
    "started": RunState.RUNNING,
    "adopted": RunState.RUNNING,
    "restarting": RunState.PENDING,  # as earlier versions wrote it
    "fault": RunState.PENDING,
    "left": RunState.PENDING,
    "stopping": RunState.STOPPING,
    "stopped": RunState.STOPPED,
    "failed": RunState.FAILED,
    "done": RunState.DONE,
}


@dataclass(frozen=True, slots=True)
class RunDir:
    path: Path

    @property
    def key(self) -> str:
        """Names the run among all runs of a cluster: runs of one name in two roots are two."""
        return f"{self.path.name}-{text_key(str(self.path)):016x}"

    @property
    def touched(self) -> float:
        """When something was last put into it, as by whoever begins or resumes the run."""
        return self.path.stat().st_mtime

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def events(self) -> Path:
        return self.path / "events"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def evaluations(self) -> Path:
        """What `longhaul evaluate` has found."""
        return self.path / "evaluations"

    @property
    def skips(self) -> Path:
        return self.path / "skips.jsonl"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def lease(self) -> Path:
        return self.path / "lease.json"

    @property
    def stop_request(self) -> Path:
        return self.path / "requests" / "stop.json"

    def refuse_if_taken(self) -> None:
        """An existing run directory is never written into by `run`."""
        if self.path.exists():
            name = self.path.name
            raise BadInput(
                "the run directory exists already",
                where=str(self.path),
                remedy=f"go on with it by `longhaul resume {name}`, or choose another name by `name=...`",
            )

    def create(self, fill: Callable[[Path], None]) -> None:
        """Make the directory, whole or not at all; of two callers exactly one succeeds."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=self.path.parent))
        try:
            fill(part)
            (part / self.events.name).mkdir()
            part.chmod(0o755)
            part.rename(self.path)  # fails when there is a run: its directory is not empty
        except OSError as error:
            shutil.rmtree(part)
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                self.refuse_if_taken()
            raise
        flush_folder(self.path.parent)

    @property
    def excerpt_request(self) -> Path:
        return self.path / "requests" / "excerpt.json"

    @property
    def drill_file(self) -> Path:
        return self.path / "drill.json"

    def drill(self) -> Drill:
        """What the run does to itself on purpose; a run of users nothing."""
        return Drill.from_json(read_json(self.drill_file)) if self.drill_file.exists() else Drill()

    def excerpt(self) -> Excerpt | None:
        """What a copy of a run is for; None for a run itself."""
        if not self.excerpt_request.exists():
            return None
        fields = read_json(self.excerpt_request)
        ranks = None if fields["ranks"] is None else tuple(fields["ranks"])
        first, stop = fields["first_step"], fields["stop_step"]
        return Excerpt(first_step=first, stop_step=stop, ranks=ranks, folder=self.path)

    def ask_to_stop(self, clock: Clock, *, at_once: bool = False, preempted: bool = False) -> None:
        """Leave a request; the controller finds it. `at_once` gives up the steps since the last checkpoint;
        `preempted`: the machines are about to go, and the exit code will say that the run can go on elsewhere."""
        publish_json(self.stop_request, {"format": 1, "t": clock.now(), "at_once": at_once, "preempted": preempted})

    def asked_to_stop(self) -> dict[str, Any] | None:
        if not self.stop_request.exists():
            return None
        request: dict[str, Any] = read_json(self.stop_request)
        return request

    def ask_to_drain(self, node: str, clock: Clock, *, grace_s: float) -> None:
        """Leave a request: this node, by address or name, is about to be taken away."""
        until = clock.now() + grace_s
        path = self.stop_request.with_name(f"drain-{quote(node, safe='')}.json")
        publish_json(path, {"format": 1, "t": clock.now(), "node": node, "until": until})

    def drained_nodes(self) -> dict[str, float]:
        """Until when (seconds since the epoch) each node is there, as asked."""
        requests = [read_json(path) for path in self.stop_request.parent.glob("drain-*.json")]
        return {request["node"]: request["until"] for request in requests}

    def forget_requests(self) -> None:
        for path in (self.stop_request, *self.stop_request.parent.glob("drain-*.json")):
            path.unlink(missing_ok=True)

    def view(self) -> "RunView":
        return view_of(read_events(self.events), read_lease(self.lease), self.touched)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunView:
    """Where a run stands."""

    state: RunState
    generation: int = 0
    touched: float = 0.0
    claimed: float = 0.0
    exit_code: ExitCode = ExitCode.DONE
    reason: str = ""
    step: int | None = None
    started: Event = field(default_factory=dict)
    lease: Lease | None = None

    def lost(self, clock: Clock) -> bool:
        """Neither ended nor held by a living controller."""
        if self.state.ended:
            return False
        if self.lease is None:  # its controller is about to take charge, or will never
            return clock.now() - self.touched > CLAIM_TIMEOUT_S
        if self.lease.generation < self.generation:  # claimed a moment ago, the lease is about to be written
            return clock.now() - self.claimed > self.lease.lease_s
        return self.lease.lapsed(clock)


def view_of(events: Iterable[Event], lease: Lease | None, touched: float) -> RunView:
    state, last, started, generation, claimed = RunState.PENDING, {}, {}, 0, 0.0
    for event in events:
        generation = event["generation"]
        kind = event["event"]
        state = _STATE_AFTER.get(kind, state)
        if kind == "started":
            started = event
        if kind == "claimed":
            claimed = event["t"]
        if kind in _STATE_AFTER:
            last = event
    return RunView(
        state=state,
        generation=generation,
        touched=touched,
        claimed=claimed,
        exit_code=ExitCode(last.get("exit_code", 0)),
        reason=last.get("reason", ""),
        step=last.get("step"),
        started=started,
        lease=lease,
    )
