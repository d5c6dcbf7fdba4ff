"""What a run leaves out while it trains: samples that do not decode, and batches whose numbers go wrong.

Called by loop.py. Both are on disk before the run goes on, so that whoever repeats a step leaves out the same, and each
has a limit. data/ordering/skips.py reads them."""

from collections.abc import Callable

from orchestrator.core.errors import TrainingFailed
from orchestrator.core.news import HolesNews, TroubleNews, VoidedNews
from orchestrator.data.feeding.batch import RankBatch
from orchestrator.data.ordering.skips import Skips
from orchestrator.train.job import TrainJob
from orchestrator.train.names import name_holes


class Skipping:
    """Counts over the whole run, the same on all ranks. `settle` is called before the run fails: what is on its way to
    disk gets there."""

    def __init__(self, job: TrainJob, known: Skips, settle: Callable[[], None]) -> None:
        self._job, self._settle = job, settle
        self._num_holes, self._num_voided = len(known.holes), len(known.voided)

    def tell_holes(self, step: int, batch: RankBatch) -> None:
        """Of this rank alone."""
        if batch.holes:
            holes = name_holes(self._job.manifest, batch.holes)
            self._job.sink.tell(HolesNews(step=step, generation=self._job.generation, holes=holes))
            self._job.sink.flush()

    def check_holes(self, step: int, batch: RankBatch, holes: int) -> None:
        """More than data.max_holes in the whole run are the end, on all ranks in the same step."""
        self._num_holes += holes
        if self._num_holes <= self._job.config.data.max_holes:
            return
        named = name_holes(self._job.manifest, batch.holes[:3])
        found = "; ".join(f"{left_out.sample}: {left_out.reason}" for left_out in named)
        self._settle()  # all ranks are here
        raise TrainingFailed(
            f"{self._num_holes} samples do not decode, more than data.max_holes={self._job.config.data.max_holes}"
            + (f", in this step {found}" if found else ""),
            where=f"step {step}",
            remedy=f"look at {self._job.skips_file}, which names them all; then go on with a higher data.max_holes, or "
            "start a new run on repaired data",
        )

    def void(self, step: int, trouble: TroubleNews) -> None:
        """Leave out the whole batch of a step. All ranks call it: rank 0 writes it down, for which the others wait in
        the next thing that they do together."""
        job, limit = self._job, self._job.config.elastic.max_voided
        self._num_voided += 1
        if self._num_voided > limit:
            self._settle()  # all ranks are here
            raise TrainingFailed(
                f"{self._num_voided} batches have numbers that go wrong, more than elastic.max_voided={limit}; "
                f"the last: {trouble.describe()}",
                where=f"step {step}",
                remedy="look at what was fed; then go on with a higher elastic.max_voided, or start a new run with a "
                "lower optim.lr, with train.clip_norm, or with more schedule.warmup_steps",
            )
        if job.world.rank == 0:
            t, reason = round(job.clock.now(), 3), trouble.reason
            job.sink.tell(VoidedNews(step=step, generation=job.generation, t=t, reason=reason))
            job.sink.flush()
