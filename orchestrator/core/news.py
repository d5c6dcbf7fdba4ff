"""What a rank tells (news) and hears (the helm), as seen by the trainer, which knows nothing of Ray.

The trainer hands news to a Sink; control/rank.py carries it to the scribe, which writes it down."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from orchestrator.core.words import Span, Word

Number = float | int | bool
Value = Number | list[float | None] | list[list[int]]  # a number, one a class (None: it has no sample), or a matrix


@dataclass(frozen=True, kw_only=True, slots=True)
class StepNews:
    """One committed step, told by data rank 0. `ledger`: order_digest, set_digest (32 hex digits each) and count."""

    step: int
    generation: int
    t: float  # when it was done, in seconds since the epoch
    metrics: dict[str, Number]
    ledger: dict[str, str | int]


@dataclass(frozen=True, kw_only=True, slots=True)
class KeysNews:
    """data.ledger: keys. What one rank fed into one step: the spans of each of its slots of the global batch."""

    step: int
    generation: int
    slots: list[int]
    spans: list[list[Span]]


class LeftOut(NamedTuple):
    """A sample that does not decode, as people know it (shard/key), and the position that stays empty for it."""

    position: int
    sample: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class HolesNews:
    """What one rank leaves out of a step: told, and flushed, before the step commits."""

    step: int
    generation: int
    holes: tuple[LeftOut, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationNews:
    """The outcome of one validation after `step` updates, told by data rank 0."""

    step: int
    generation: int
    t: float
    split: str
    metrics: dict[str, Value]


@dataclass(frozen=True, kw_only=True, slots=True)
class NoteNews:
    """Something people should see beside the curves, told by data rank 0; the same text at the same step is one."""

    step: int
    generation: int
    t: float
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointNews:
    """A checkpoint was committed (or could not be: `problem` says why), told by data rank 0."""

    step: int
    generation: int
    folder: str
    seconds: float  # from its step until it was committed
    size_bytes: int
    pause_s: float = 0.0  # of them, those for which training stood still on rank 0
    problem: str = ""
    best_by: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class BegunNews:
    """A rank of a new world is about to train its first step, told by data rank 0. `seconds`: what it took, by part."""

    step: int
    generation: int
    t: float
    seconds: dict[str, float]  # join, build, restore, read


@dataclass(frozen=True, kw_only=True, slots=True)
class VoidedNews:
    """A batch is left out of the run: told by data rank 0, and flushed, before the run goes on."""

    step: int
    generation: int
    t: float
    reason: str


TroubleKind = Literal["not_finite", "loss_spike", "not_repeated"]  # not finite once, and finite when tried again


class FedBy(NamedTuple):
    """What a rank fed where numbers went wrong, as people know it (shard/key); `more` samples are not named."""

    rank: int
    samples: tuple[str, ...]
    more: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TroubleNews:
    """The numbers of a step went wrong, told by data rank 0 for all ranks that have a part in it."""

    step: int
    generation: int
    t: float
    kind: TroubleKind
    reason: str
    fed: tuple[FedBy, ...]

    def describe(self) -> str:
        """One line: what went wrong, and what was fed."""
        return "; ".join([self.reason, *map(_describe_fed, self.fed)])


def _describe_fed(fed: FedBy) -> str:
    return f"rank {fed.rank} fed {', '.join(fed.samples)}" + (f" and {fed.more} more" if fed.more else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class SystemNews:
    """How one node was doing at `t` (seconds since the epoch), told by its node actor."""

    node: str
    t: float
    metrics: dict[str, float]


News = (
    StepNews
    | KeysNews
    | HolesNews
    | EvaluationNews
    | NoteNews
    | CheckpointNews
    | BegunNews
    | VoidedNews
    | TroubleNews
    | SystemNews
)


class Sink(Protocol):
    """Where a rank's news goes."""

    def tell(self, news: News) -> None:
        """Must not block the step."""
        ...

    @property
    def told(self) -> int:
        """How many news have been told."""
        ...

    @property
    def settled(self) -> int:
        """How many of them, in their order, are on disk."""
        ...

    def flush(self) -> None:
        """Return when all that was told is on disk, or raise: a checkpoint must not be ahead of what is known."""
        ...


class Helm(Protocol):
    """How a rank hears the controller and shows that it is alive."""

    def word(self) -> Word:
        """The controller's word now; the trainer agrees on it over all ranks once a step."""
        ...

    def show(self, step: int, phase: str) -> None:
        """Where this rank stands: updates done, and what it does now (start, data, step, evaluate, checkpoint)."""
        ...

    def show_busy(self, seconds: float) -> None:
        """How long this rank read and computed in a step before it first waited for others: tells who is slow."""
        ...
