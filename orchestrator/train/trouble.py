"""Numbers that go wrong: losses and gradients that are not finite, and losses that leap; named with what was fed.

Called by loop.py after every update, with numbers that all ranks know: all see the same in the same step, and do the
same about it. What is left out of the run for them goes through skipping.py."""

import math
import statistics
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.config.running import SpikeSection
from orchestrator.core.news import FedBy, TroubleKind, TroubleNews
from orchestrator.data.feeding.batch import RankBatch
from orchestrator.data.ordering.order import rank_slice
from orchestrator.data.shards.manifest import Manifest
from orchestrator.train.agreement import gather_everywhere, sum_over_ranks
from orchestrator.train.engine import StepResult
from orchestrator.train.job import TrainJob
from orchestrator.train.names import name_fed


class Update(NamedTuple):
    """One attempt at a step: this rank's sums of losses by micro-batch, and what became of it on all ranks."""

    micro_losses: list[float]
    result: StepResult


NO_UPDATE = Update([], StepResult(applied=False, grad_norm=0.0))  # of a void step


class LossWatch:
    """The finite losses of the last steps, by which the next one is judged. Checkpoints keep them."""

    def __init__(self, rule: SpikeSection | None, losses: Iterable[float]) -> None:
        self._rule = rule
        self._losses = deque(losses, maxlen=rule.steps if rule is not None else 0)

    @property
    def losses(self) -> tuple[float, ...]:
        return tuple(self._losses)

    @property
    def limit(self) -> float:
        """What the next loss may not be above; infinite until there are enough to tell what is usual."""
        if self._rule is None or len(self._losses) < self._rule.steps:
            return math.inf
        usual, spread = statistics.fmean(self._losses), statistics.pstdev(self._losses)
        return usual + max(self._rule.deviations * spread, self._rule.least_rise * abs(usual))

    def remember(self, loss: float) -> None:
        if math.isfinite(loss):
            self._losses.append(loss)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trouble:
    """What is wrong with a step, in numbers that are the same on all ranks."""

    kind: TroubleKind
    loss: float
    grad_norm: float
    limit: float  # of the losses of that step

    def describe(self) -> str:
        numbers = f"loss {self.loss:.6g} and gradient norm {self.grad_norm:.6g}"
        match self.kind:
            case "loss_spike":
                return f"loss {self.loss:.6g} is above {self.limit:.6g} (elastic.spike)"
            case "not_finite":
                return numbers
            case "not_repeated":
                return f"{numbers}, but not when the same was computed again"


def find_not_finite(update: Update, weight: float, *, seeks_scale: bool) -> Trouble | None:
    """Why an update was applied on no rank; asked by all of them. While fp16 seeks a loss scale, gradients of finite
    losses do overflow: that is no trouble."""
    if update.result.applied or not weight:
        return None
    [loss_sum] = sum_over_ranks([sum(update.micro_losses)])
    if seeks_scale and math.isfinite(loss_sum):
        return None
    return Trouble(kind="not_finite", loss=loss_sum / weight, grad_norm=update.result.grad_norm, limit=math.inf)


def judge_loss(loss: float, grad_norm: float, limit: float) -> Trouble | None:
    """Of an update that was applied."""
    if loss <= limit:
        return None
    return Trouble(
        kind="loss_spike" if math.isfinite(loss) else "not_finite", loss=loss, grad_norm=grad_norm, limit=limit
    )


def tell_trouble(
    trouble: Trouble, job: TrainJob, step: int, batch: RankBatch, micro_losses: Sequence[float]
) -> TroubleNews:
    """Rank 0 tells for all. Every rank calls it, and gets the same: what is raised about it is one error, not many."""
    own = find_fed(trouble, job.manifest, batch, job.world.rank, micro_losses)
    known = gather_everywhere(own)
    news = TroubleNews(
        step=step,
        generation=job.generation,
        t=round(job.clock.now(), 3),
        kind=trouble.kind,
        reason=trouble.describe(),
        fed=tuple(fed for fed in known if fed is not None),
    )
    if job.world.rank == 0:
        job.sink.tell(news)
    return news


def find_fed(
    trouble: Trouble, manifest: Manifest, batch: RankBatch, rank: int, micro_losses: Sequence[float]
) -> FedBy | None:
    """What this rank fed to it: the micro-batches whose own mean loss is out of bounds. None when there are none.

    A mean over all that is out of bounds has such a part. Where all losses are in bounds and only a gradient is not
    finite, nobody can tell whose it was: then it is all of the batch, or nobody's if that was not repeated."""
    parts = [rank_slice(len(batch.slots), number, len(micro_losses)) for number in range(len(micro_losses))]
    if not math.isfinite(trouble.loss) or trouble.kind != "not_finite":
        parts = [part for part, loss in zip(parts, micro_losses, strict=True) if _is_out(batch, part, loss, trouble)]
    rows = list(_rows_of(parts))
    return name_fed(manifest, batch, rank, rows) if rows else None


def _is_out(batch: RankBatch, part: range, loss_sum: float, trouble: Trouble) -> bool:
    weight = float(batch.fields["weights"][part.start : part.stop].sum())
    return not (math.isfinite(loss_sum) and loss_sum <= trouble.limit * weight)


def _rows_of(parts: Iterable[range]) -> Iterator[int]:
    for part in parts:
        yield from part
