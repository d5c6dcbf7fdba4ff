"""Snapshots in memory and checkpoints on disk of a run in training. Called by loop.py, on every rank alike.

A step pays for one copy of the state into a slot of the vault (snapshot.py); everything else happens behind it. How far
that has come the ranks tell each other in the all-reduce that every step does anyway, so that they always agree on
which slots are free, which snapshot is whole on all of them, and which checkpoint is one. Of checkpoints one at a time
is on its way: a run that asks for more waits."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Self

from orchestrator.checkpoint.behind import SLOTS, Behind
from orchestrator.checkpoint.layout import CheckpointFacts, checkpoint_name
from orchestrator.checkpoint.reader import StateReader
from orchestrator.checkpoint.shelf import Address, Shelf, open_shelf
from orchestrator.checkpoint.slot import Slot
from orchestrator.checkpoint.vault import Answer, Committed, Kept, Vault, Written
from orchestrator.config.compare import run_hash
from orchestrator.core.errors import TrainingFailed
from orchestrator.core.news import CheckpointNews
from orchestrator.data.ordering.skips import Skips
from orchestrator.train.agreement import sum_over_ranks
from orchestrator.train.cadence import Cadence
from orchestrator.train.engine import Engine
from orchestrator.train.job import TrainJob
from orchestrator.train.optim.history import History
from orchestrator.train.snapshot import Snapper


class Votes(NamedTuple):
    """How many ranks say it."""

    kept: int = 0  # the last snapshot is kept, and what was done before it is on disk
    written: int = 0  # its part of the checkpoint is on disk
    unwritten: int = 0  # it could not be
    committed: int = 0  # rank 0: it is a checkpoint
    refused: int = 0  # rank 0: it could not be made one

    def add_over_ranks(self) -> Self:
        return type(self)(*map(int, sum_over_ranks(self)))


@dataclass(slots=True)
class Shot:
    """A snapshot, from the moment it is taken. What is known of this rank's part, and of the whole on rank 0."""

    step: int
    slot: int
    began: float
    told: int  # news told before it: they must be on disk before it counts
    pause_s: float = 0.0
    is_kept: bool = False
    written: Written | None = None
    is_asked: bool = False  # rank 0: to be committed
    committed: Committed | None = None


class Saver:
    def __init__(self, job: TrainJob, engine: Engine, history: History, first_step: int) -> None:
        self._job, self._engine, self._history = job, engine, history
        self._shelf = open_shelf(job.config, job.checkpoints)
        self._vault = job.vault or _make_vault(job, self._shelf)
        self._snapper = Snapper(job.world, job.generation)
        self._config_hash = run_hash(job.config)
        self._cadence = Cadence(job.config.checkpoint.snapshot_every, first_step)
        self._copied: Callable[[], None] | None = None  # what is to be done when the last snapshot is
        self._latest: Shot | None = None  # whole on all ranks
        self._pending: Shot | None = None  # not known to be whole on all ranks
        self._writing: Shot | None = None  # on its way to disk
        self.cost_s = 0.0  # what the last snapshot cost this rank, once that is known
        self.checkpoint = None if isinstance(job.start, StateReader) else job.start  # the last one
        self._problem = ""  # why the last one is not there
        self._pause_s = 0.0  # since it was last asked for
        self.skipped = 0  # snapshots that were due when no slot was free

    def close(self) -> None:
        self._snapper.close()
        if self._job.vault is None:
            self._vault.close()

    # ---- what the loop asks for ----

    def snap(self, step: int, losses: tuple[float, ...]) -> None:
        """If a snapshot is due. Left out where the one before it is still on its way."""
        if not self._cadence.is_due(step):
            return
        self._cadence.note(step)
        if self._pending is not None or self._free_slot() is None:
            self.skipped += 1
        else:
            self._take(step, losses, write=False)

    def save(self, step: int, losses: tuple[float, ...]) -> None:
        """A checkpoint, on its way to disk when this returns."""
        began = self._job.clock.monotonic()
        self.settle()
        waited_s = self._job.clock.monotonic() - began
        shot = self._take(step, losses, write=True)
        shot.pause_s += waited_s
        self._pause_s += waited_s
        self._cadence.note(step)

    def hand_over(self, step: int, losses: tuple[float, ...]) -> None:
        """For the next world: this step's state in memory or, where nothing is kept there, on disk; whole on all ranks
        after finish."""
        if self._job.config.checkpoint.snapshot_every is None:
            self.save(step, losses)
        else:
            self.settle()
            self._take(step, losses, write=False)

    @property
    def is_writing(self) -> bool:
        """Whether a checkpoint is on its way, which all ranks know alike."""
        return self._writing is not None

    def hold_update(self) -> None:
        """To be called before every update: it must not change what is still being copied."""
        self._snapper.hold_update()

    @property
    def is_busy(self) -> bool:
        """Something is on its way."""
        return self._pending is not None or self._writing is not None

    def settle(self) -> None:
        """Return when nothing is on its way any more."""
        while self.is_busy:
            self._wait_for_own()
            self.hear(self.votes().add_over_ranks())

    def votes(self) -> Votes:
        """What this rank knows by now."""
        self._end_copy()
        for answer in self._vault.answers():
            self._take_in(answer)
        kept = self._pending is not None and self._pending.is_kept and self._is_told(self._pending)
        shot = self._writing
        if shot is None or shot.written is None:
            return Votes(kept=int(kept))
        is_on_disk = not shot.written.problem and self._is_told(shot)
        made = shot.committed
        return Votes(
            kept=int(kept),
            written=int(is_on_disk),
            unwritten=int(bool(shot.written.problem)),
            committed=int(made is not None and bool(made.path)),
            refused=int(made is not None and not made.path),
        )

    def hear(self, votes: Votes) -> None:
        """What all ranks together know."""
        size, shot = self._job.world.size, self._writing
        if self._pending is not None and votes.kept == size:
            self._latest, self._pending = self._pending, None
        if shot is None or votes.written + votes.unwritten < size:
            return
        if votes.unwritten:
            self._give_up(shot)
        elif votes.refused:
            self._end(shot, shot.committed or Committed(step=shot.step, problem=_ELSEWHERE))
        elif votes.committed:
            self.checkpoint = self._address_of(shot)
            self._end(shot, shot.committed or Committed(step=shot.step, path=str(self.checkpoint)))
        elif self._job.world.rank == 0 and not shot.is_asked:
            shot.is_asked = True
            self._vault.commit(shot.slot)

    def take_pause(self) -> float:
        """How long training stood still since this was last asked."""
        pause_s, self._pause_s = self._pause_s, 0.0
        return pause_s

    def learn(self, step_s: float, cost_s: float) -> None:
        """Sums over all ranks: what the last step took, and the last snapshot."""
        if step_s:
            self._cadence.learn(step_s, cost_s)

    def finish(self, *, must_be_saved: bool) -> Address | None:
        """Wait for all that is on its way; the last checkpoint. Without the one of its last step a run is not done."""
        self.settle()
        if must_be_saved and self._problem:
            raise TrainingFailed(
                f"all steps are done, but the last checkpoint could not be written: {self._problem}",
                where=self._shelf.where(""),
                remedy="make room there and resume the run",
            )
        return self.checkpoint

    # ---- inside ----

    def _take(self, step: int, losses: tuple[float, ...], *, write: bool) -> Shot:
        began, slot = self._job.clock.monotonic(), self._free_slot()
        assert slot is not None
        shot = Shot(step=step, slot=slot, began=began, told=self._job.sink.told)
        facts = self._collect_facts(step, losses)
        self._snapper.take(self._vault.slots[slot], self._engine.look(), step, facts)
        self._copied = partial(self._vault.keep, slot, write=write)
        if not self._snapper.is_copying:
            self._end_copy()
        shot.pause_s = self._job.clock.monotonic() - began
        self._pause_s += shot.pause_s
        self._pending, self._writing = shot, shot if write else self._writing
        return shot

    def _end_copy(self) -> None:
        """From a GPU the last snapshot is copied beside the next step; by now it can be handed on."""
        if self._copied is not None:
            self._snapper.finish()
            self._copied()
            self._copied = None

    def _free_slot(self) -> int | None:
        taken = {shot.slot for shot in (self._latest, self._pending, self._writing) if shot is not None}
        return next((slot for slot in range(SLOTS) if slot not in taken), None)

    def _take_in(self, answer: Answer) -> None:
        for shot in (self._pending, self._writing):
            if shot is not None and shot.step == answer.step:
                match answer:
                    case Kept():
                        shot.is_kept = True
                        self.cost_s = shot.pause_s + answer.cpu_s
                    case Written():
                        shot.written = answer
                    case Committed():
                        shot.committed = answer

    def _is_told(self, shot: Shot) -> bool:
        """What was done before it is on disk: a run must not go on from what nobody could prove."""
        return self._job.sink.settled >= shot.told

    def _wait_for_own(self) -> None:
        """Until this rank has nothing to wait for but the others."""
        self._end_copy()
        self._job.sink.flush()
        while self._is_answer_due():
            with self._job.interruptible():
                answers = self._vault.answers(wait=True)
            for answer in answers:
                self._take_in(answer)

    def _is_answer_due(self) -> bool:
        pending, shot = self._pending, self._writing
        if pending is not None and not pending.is_kept:
            return True
        return shot is not None and (shot.written is None or (shot.is_asked and shot.committed is None))

    def _give_up(self, shot: Shot) -> None:
        """Some rank could not write its part."""
        own = shot.written.problem if shot.written is not None else ""
        if self._job.world.rank == 0:
            self._vault.discard(shot.slot)
        self._end(shot, Committed(step=shot.step, problem=own or _ELSEWHERE))

    def _end(self, shot: Shot, outcome: Committed) -> None:
        self._writing = None
        self._problem = "" if outcome.path else outcome.problem
        if self._job.world.rank == 0:
            self._tell(shot, outcome)

    def _address_of(self, shot: Shot) -> Address:
        return self._shelf.address(checkpoint_name(shot.step, self._job.generation))

    def _tell(self, shot: Shot, outcome: Committed) -> None:
        best_by = self._job.config.evaluate.best_by
        measured = self._history.at(shot.step)
        self._job.sink.tell(
            CheckpointNews(
                step=shot.step,
                generation=self._job.generation,
                folder=checkpoint_name(shot.step, self._job.generation) if outcome.path else "",
                seconds=self._job.clock.monotonic() - shot.began,
                size_bytes=outcome.size_bytes,
                problem=outcome.problem,
                best_by={} if measured is None else {best_by: measured[best_by]},
                pause_s=shot.pause_s,
            )
        )

    def _collect_facts(self, step: int, losses: tuple[float, ...]) -> CheckpointFacts:
        """Skips as they are on disk: those of all ranks, told before the steps that they are of."""
        job, skips = self._job, Skips.load(self._job.skips_file).before(step)
        voided = [{"step": at, "voided": True} for at in sorted(skips.voided)]
        holes = [{"step": at, "position": position} for at, position in sorted(skips.holes)]
        measured = self._history.at(step)
        return CheckpointFacts(
            zero_stage=job.config.zero_stage,
            config_hash=self._config_hash,
            chain=tuple(job.manifest.ids),
            skips=(*voided, *holes),
            wandb_run_id=job.wandb_run_id,
            validation_loss=measured["loss"] if measured else None,
            validations=tuple(self._history.rows),
            recent_losses=losses,
        )


_ELSEWHERE = "checkpoint not written: another rank could not write its part, see that rank's log"


def _make_vault(job: TrainJob, shelf: Shelf) -> Vault:
    """Of this process alone, with threads for what is done behind the steps."""
    config = job.config
    slots = [Slot.create(f"slot-{number}") for number in range(SLOTS)]
    return Behind(slots, shelf, keep=config.checkpoint.keep, best_by=config.evaluate.best_by)
