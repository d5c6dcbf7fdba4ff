"""The words of the two corridors. A word means one thing everywhere; see docs/words.md for the prose."""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import NamedTuple


class SampleId(NamedTuple):
    """A sample's identity: its shard's permanent number and its place in the tar (0 is the first key of the shard)."""

    ordinal: int
    place: int


class Span(NamedTuple):
    """A stretch of one sample as fed to the model, in tokens when packing; a whole sample is (0, 0)."""

    ordinal: int
    place: int
    first: int
    count: int  # type: ignore[assignment]  # a field, not the tuple's method


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardRef:
    """One shard as the dataset names it: `name` is logical ("source/relative/path.tar"), `url` is where it lies.

    `size_bytes` is 0 where nobody has asked the store."""

    ordinal: int
    source: int
    name: str
    url: str
    size_bytes: int
    stamp: str = ""  # as its listing showed it: changes when the bytes may have


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """This rank's place. Data-parallel rank and size stand apart from rank and size so that a sample may one day be
    shared by several ranks (sequence parallelism)."""

    rank: int
    size: int
    data_rank: int
    data_size: int
    local_rank: int
    local_size: int

    def __post_init__(self) -> None:
        for place, size in (
            (self.rank, self.size),
            (self.data_rank, self.data_size),
            (self.local_rank, self.local_size),
        ):
            if not 0 <= place < size:
                raise ValueError(f"a rank must lie inside its world: {self}")
        if self.size % self.data_size:
            raise ValueError(f"size {self.size} is not a multiple of data_size {self.data_size}")

    @classmethod
    def flat(cls, rank: int, size: int, local_rank: int = 0, local_size: int = 1) -> "World":
        """The world where every rank is a data-parallel rank."""
        return cls(rank=rank, size=size, data_rank=rank, data_size=size, local_rank=local_rank, local_size=local_size)


class RunState(StrEnum):
    """Where a run stands, derived from its journal."""

    PENDING = "pending"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    DONE = "done"

    @property
    def ended(self) -> bool:
        return self in (RunState.STOPPED, RunState.FAILED, RunState.DONE)


class ExitCode(IntEnum):
    """What a command says to the shell."""

    DONE = 0
    FAILED = 1
    BAD_INPUT = 2
    DOES_NOT_FIT = 3
    NOT_VERIFIED = 4
    PREEMPTED = 75
    STOPPED = 130


class Word(IntEnum):
    """What the controller tells every rank; carried in each step's all-reduce so that all act at the same boundary."""

    GO_ON = 0
    STOP = 1  # with a checkpoint; the run stands still then
    LEAVE = 2  # with a snapshot; the run goes on at once, in another world


# parts of the state in a node's memory (checkpoint/slot.py)
OWN_SLOTS = 3  # a rank: the last committed snapshot, the one on its way, and one that is being written to disk
MIRROR_SLOTS = 2  # a rank of the node whose buddy it is: the last committed snapshot, and the one on its way


@dataclass(frozen=True, kw_only=True, slots=True)
class Excerpt:
    """Some steps of a run, trained once more to be looked at: it ends before `stop_step` and writes no checkpoint.

    The profiler watches `ranks` (None: all) from `first_step` on and leaves in `folder` what it saw; without a folder
    nobody watches."""

    first_step: int
    stop_step: int
    ranks: tuple[int, ...] | None = None
    folder: Path | None = None

    def includes(self, rank: int) -> bool:
        return self.ranks is None or rank in self.ranks
