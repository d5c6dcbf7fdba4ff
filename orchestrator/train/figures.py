"""What the ranks tell each other after every update, in one small all-reduce, so that all know the same."""

from dataclasses import dataclass
from typing import Self

from orchestrator.core.news import Number
from orchestrator.core.words import Word
from orchestrator.data.feeding.batch import ReadFigures
from orchestrator.data.ordering.ledger import Sums
from orchestrator.storage.stores import Fetched
from orchestrator.train.agreement import sum_over_ranks
from orchestrator.train.saver import Votes


@dataclass(frozen=True, kw_only=True, slots=True)
class StepFigures:
    """Of one rank, or added up over all."""

    loss_sum: float  # of this step; NaN if it was so anywhere
    next_weight: float  # of the batch that comes next: every rank needs the whole weight before its backward pass
    count: int  # rows in the ledger's sums
    holes: int  # samples of this step that do not decode
    stop_votes: int  # ranks that have heard the word to stop
    leave_votes: int  # or to leave this world
    empty_handed: int  # ranks without a next batch
    stores_down: int  # ranks whose next batch lies in a store that stays away
    wait_s: float  # waited for data
    before_s: float  # what the step before took
    snapshot_s: float  # what the last snapshot cost, once that is known
    votes: Votes  # about snapshots and checkpoints
    reading: ReadFigures  # what making the batch took
    sums: Sums  # of the ledger

    def add_over_ranks(self) -> Self:
        reading = self.reading
        heard = [self.stop_votes, self.leave_votes, self.empty_handed, self.stores_down]
        votes = [self.count, self.holes, *heard, reading.read_bytes, *reading.fetched]
        seconds = [self.wait_s, self.before_s, self.snapshot_s, reading.decode_s]
        own = [self.loss_sum, self.next_weight, *seconds, *self.votes, *votes, *self.sums.to_limbs()]
        loss_sum, next_weight, wait_s, before_s, snapshot_s, decode_s, *rest = sum_over_ranks(own)
        said, rest = Votes(*map(int, rest[: len(self.votes)])), rest[len(self.votes) :]
        count, holes, *counted = map(int, rest[: len(votes)])
        stop_votes, leave_votes, empty_handed, stores_down, read_bytes, hits, misses, size_bytes = counted
        return type(self)(
            loss_sum=loss_sum,
            next_weight=next_weight,
            count=count,
            holes=holes,
            stop_votes=stop_votes,
            leave_votes=leave_votes,
            empty_handed=empty_handed,
            stores_down=stores_down,
            wait_s=wait_s,
            before_s=before_s,
            snapshot_s=snapshot_s,
            votes=said,
            reading=ReadFigures(read_bytes, decode_s, Fetched(hits, misses, size_bytes)),
            sums=Sums.from_limbs(rest[len(votes) :]),
        )

    def choose_word(self, *, must_leave: bool, is_writing: bool) -> Word:
        """What all ranks do now, added up over them: one that has heard a word, or has a reason of its own, is enough.
        While a checkpoint is on its way nobody leaves but at a stated step, or where there is nothing else to do."""
        if self.stop_votes or self.stores_down:
            return Word.STOP
        may_leave = self.empty_handed or not is_writing
        return Word.LEAVE if must_leave or (self.leave_votes and may_leave) else Word.GO_ON

    def describe_reading(self, world_size: int) -> dict[str, Number]:
        """The columns of metrics.jsonl about reading: sums over the ranks, seconds as a mean.

        What is not there (nothing to decode, no store, no hole) has no column."""
        fetched = self.reading.fetched
        values: dict[str, Number] = {
            "decode_s": self.reading.decode_s / world_size,
            "cache_hits": fetched.hits,
            "cache_misses": fetched.misses,
            "fetched_bytes": fetched.size_bytes,
            "holes": self.holes,
        }
        return {"read_bytes": self.reading.read_bytes} | {name: value for name, value in values.items() if value}
