"""What the ranks tell each other after every update, in one small all-reduce, so that all know the same."""

from dataclasses import dataclass
from typing import Self

from orchestrator.data.ledger import Sums
from orchestrator.train.engine import sum_over_ranks


@dataclass(frozen=True, kw_only=True, slots=True)
class StepFigures:
    """Of one rank, or added up over all."""

    loss_sum: float  # of this step; NaN if it was so anywhere
    next_weight: float  # of the batch that comes next: every rank needs the whole weight before its backward pass
    count: int  # rows in the ledger's sums
    stop_votes: int  # ranks that have heard the word to stop
    wait_s: float  # waited for data
    sums: Sums  # of the ledger

    def add_over_ranks(self) -> Self:
        own = [self.loss_sum, self.next_weight, self.count, self.stop_votes, self.wait_s, *self.sums.to_limbs()]
        loss_sum, next_weight, count, stop_votes, wait_s, *limbs = sum_over_ranks(own)
        return type(self)(
            loss_sum=loss_sum,
            next_weight=next_weight,
            count=int(count),
            stop_votes=int(stop_votes),
            wait_s=wait_s,
            sums=Sums.from_limbs(limbs),
        )
