"""Durable checkpoints of a run in training: extract, write, throw away what need not stay, tell. Called by loop.py."""

from pathlib import Path

from orchestrator.checkpoint.keep import prune
from orchestrator.checkpoint.layout import CheckpointFacts
from orchestrator.checkpoint.writer import SavedCheckpoint, SaveProblem, save_checkpoint
from orchestrator.config.compare import run_hash
from orchestrator.core.errors import TrainingFailed
from orchestrator.core.news import CheckpointNews
from orchestrator.data.ordering.skips import Skips
from orchestrator.train.engine import Engine, sum_over_ranks
from orchestrator.train.job import TrainJob
from orchestrator.train.optim.history import History, Row


def save(
    job: TrainJob, engine: Engine, step: int, history: History, recent_losses: tuple[float, ...], *, is_last: bool
) -> Path | None:
    """Called on every rank alike. None when it cannot be written: that is told, and training goes on.

    Only without the checkpoint of the last step a run is not done."""
    began = job.clock.monotonic()
    job.sink.flush()  # a checkpoint ahead of the ledger would leave a gap that no resume fills
    saved = save_checkpoint(
        job.checkpoints,
        step=step,
        generation=job.generation,
        rank=job.world.rank,
        world_size=job.world.size,
        state=engine.extract(),
        facts=collect_facts(job, step, history, recent_losses),
        barrier=lambda ok: sum_over_ranks([float(not ok)]) == [0.0],
    )
    if job.world.rank == 0:
        problem = saved.message if isinstance(saved, SaveProblem) else throw_away(job)
        tell(job, saved, step, problem, history.at(step), seconds=job.clock.monotonic() - began)
    if isinstance(saved, SavedCheckpoint):
        return saved.path
    if is_last:
        raise TrainingFailed(
            f"all steps are done, but the last checkpoint could not be written: {saved.message}",
            where=str(job.checkpoints),
            remedy="make room there and resume the run",
        )
    return None


def collect_facts(job: TrainJob, step: int, history: History, recent_losses: tuple[float, ...]) -> CheckpointFacts:
    """Skips as they are on disk: those of all ranks, told before the steps that they are of."""
    skips = Skips.load(job.skips_file).before(step)
    voided = [{"step": at} for at in sorted(skips.voided)]
    holes = [{"step": at, "position": position} for at, position in sorted(skips.holes)]
    measured = history.at(step)
    return CheckpointFacts(
        zero_stage=job.config.zero_stage,
        config_hash=run_hash(job.config),
        chain=tuple(job.manifest.ids),
        skips=(*voided, *holes),
        wandb_run_id=job.wandb_run_id,
        validation_loss=measured["loss"] if measured else None,
        validations=tuple(history.rows),
        recent_losses=recent_losses,
    )


def throw_away(job: TrainJob) -> str:
    """Remove older checkpoints that need not stay; what stood in the way, if anything."""
    try:
        prune(job.checkpoints, job.config.checkpoint.keep, job.config.evaluate.best_by)
    except OSError as error:
        return f"older checkpoints could not be removed: {error}"
    return ""


def tell(
    job: TrainJob,
    saved: SavedCheckpoint | SaveProblem,
    step: int,
    problem: str,
    measured: Row | None,
    seconds: float,
) -> None:
    best_by = job.config.evaluate.best_by
    written = saved if isinstance(saved, SavedCheckpoint) else None
    job.sink.tell(
        CheckpointNews(
            step=step,
            generation=job.generation,
            folder=written.path.name if written else "",
            seconds=seconds,
            size_bytes=written.size_bytes if written else 0,
            problem=problem,
            best_by={} if measured is None else {best_by: measured[best_by]},
        )
    )
