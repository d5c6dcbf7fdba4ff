"""Where a run stands, for people and programs. Read by look.py from a run directory, shown by launch/screens/status.py;
as JSON it also travels from clusters."""

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from orchestrator.core.errors import DataError
from orchestrator.tracking.now import RankNow, Waiting

FORMAT = 1


class SeenState(StrEnum):
    """A run's state as seen from outside: that of its journal (core.words.RunState), or one of three more."""

    PREPARING = "preparing"  # no controller has taken charge yet
    PENDING = "pending"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    DONE = "done"
    LOST = "lost"  # its controller is gone or frozen, and it has not ended
    UNREADABLE = "unreadable"  # told by lists only, so that one damaged run does not hide the others

    @property
    def over(self) -> bool:
        """Nobody works on the run any more."""
        return self not in (SeenState.PREPARING, SeenState.PENDING, SeenState.RUNNING, SeenState.STOPPING)


@dataclass(frozen=True, kw_only=True, slots=True)
class RankStatus(RankNow):
    slow: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class EventLine:
    t: float
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    step: int
    loss: float
    perplexity: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LastCheckpoint:
    step: int
    t: float
    folder: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStatus:
    """What is not known is None. Times are seconds since the epoch, by the clock of the machine that has looked."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(ser_json_inf_nan="strings")  # JSON has no numbers for them

    name: str
    path: str
    state: SeenState
    read_at: float
    reason: str = ""  # why it failed, was stopped or is lost
    exit_code: int | None = None  # when it has ended
    started_at: float | None = None
    updated_at: float | None = None  # the last event or step

    step: int = 0  # updates done
    steps: int | None = None  # train.steps
    step_at: float | None = None
    loss: float | None = None  # of the last step
    losses: list[float] = field(default_factory=list)  # over the whole run, at most CURVE_POINTS
    validation: Validation | None = None
    checkpoint: LastCheckpoint | None = None

    step_s: float | None = None  # this and the next five: of the last steps
    tokens_per_s: float | None = None
    samples_per_s: float | None = None
    mfu: float | None = None  # share of the devices' peak, where that is known
    memory_peak_gb: float | None = None  # of the rank that has held the most
    data_wait: float | None = None  # share of the step time
    eta_s: float | None = None
    goodput: float | None = None  # share of the time in which a controller had charge
    seconds: dict[str, float] = field(default_factory=dict)  # that time, by what it was spent on

    prepared: tuple[int, int] | None = None  # segments, and of how many, while data is still being prepared

    generation: int = 0
    restarts: int = 0
    world_size: int | None = None
    nodes: int | None = None
    ranks: list[RankStatus] = field(default_factory=list)
    waiting: Waiting | None = None
    seen_at: float | None = None  # when the controller saw `ranks` or `waiting`
    events: list[EventLine] = field(default_factory=list)  # the last ones
    wandb_url: str | None = None


_JSON = TypeAdapter(RunStatus)


def to_json(status: RunStatus) -> dict[str, Any]:
    """Numbers that are none become the texts NaN and Infinity."""
    return {"format": FORMAT, **json.loads(_JSON.dump_json(status))}


def from_json(fields: Any) -> RunStatus:
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        remedy = "use the same Longhaul on both sides"
        raise DataError(f"is no status of format {FORMAT}", where="status", remedy=remedy)
    try:
        return _JSON.validate_python(fields)
    except ValidationError as error:
        raise DataError(f"is no status: {error}", where="status") from error
