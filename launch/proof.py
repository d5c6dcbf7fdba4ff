"""`longhaul verify` and `longhaul ledger`: the proof that a run fed what its definition says, and what it fed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from launch.screen import Screen
from launch.shelves import shelf_of_run
from orchestrator.checkpoint.found import list_checkpoints, verify_on
from orchestrator.config.load import load_config
from orchestrator.core.errors import BadInput, NotVerified
from orchestrator.data.ordering.order import Order
from orchestrator.data.ordering.skips import Skips
from orchestrator.data.proof.audit import FedUnits, Prepared, prove_epochs, recompute
from orchestrator.data.proof.difference import (
    compare_ledger,
    expected_spans,
    find_wrong_position,
    readable_keys,
    tell_span,
)
from orchestrator.data.shards.manifest import Manifest
from orchestrator.tracking.journal import read_events
from orchestrator.tracking.keys import KEYS_FOLDER, read_keys
from orchestrator.tracking.rows import Ledger, read_ledger, read_losses
from orchestrator.tracking.rundir import RunDir

STEPS_AT_ONCE = 1024  # whose keys are in memory together
MOST_NAMED = 8  # steps that were left out


@dataclass(frozen=True, kw_only=True, slots=True)
class Definition:
    """What a run is a pure function of."""

    manifest: Manifest
    order: Order
    skips: Skips
    packed: bool

    @classmethod
    def load(cls, run_dir: RunDir) -> Self:
        config, manifest = load_config(run_dir.config).config, Manifest.load(run_dir.manifest)
        order, packed = Order.of(config, manifest), config.packed_len is not None
        return cls(manifest=manifest, order=order, skips=Skips.load(run_dir.skips), packed=packed)


def verify(run_dir: RunDir, against: RunDir | None, screen: Screen) -> None:
    """Raises NotVerified with everything that does not hold."""
    ledger = read_ledger(run_dir.path)
    problems = [*_check_steps(run_dir, ledger), *_check_ledger(run_dir, ledger, screen)]
    problems += _check_checkpoints(run_dir, screen)
    if against is not None:
        problems += _compare_runs(run_dir, ledger, against, screen)
    if problems:
        raise NotVerified("\n".join(problems), where=str(run_dir.path))


def _check_steps(run_dir: RunDir, ledger: Ledger) -> Iterator[str]:
    """No step without its row, from the first that was not another tool's."""
    imported = (event["step"] for event in read_events(run_dir.events) if event["event"] == "imported")
    first = next(imported, 0)
    missing = np.flatnonzero(ledger.steps != first + np.arange(len(ledger)))
    if missing.size:
        yield f"ledger.jsonl has no row of step {first + missing[0]}"
    untold = np.setdiff1d(read_losses(run_dir.path)[0], ledger.steps)
    if untold.size:
        yield f"metrics.jsonl tells of step {untold[0]}, ledger.jsonl does not"


def _check_ledger(run_dir: RunDir, ledger: Ledger, screen: Screen) -> Iterator[str]:
    """Every step's two sums, made again from config, manifest and skips."""
    run = Definition.load(run_dir)
    prepared, fed = Prepared(run.manifest, "train", packed=run.packed), FedUnits()
    difference = compare_ledger(ledger.rows(), recompute(run.order, prepared, run.skips, ledger, fed))
    if difference is not None:
        yield f"ledger: {difference}"
        yield from _name_position(run_dir, run, difference.step)
        return
    screen.say(f"ledger: {len(ledger)} steps fed what the run's definition says")
    what = "sequences hold every kept document" if run.packed else "samples are all that were kept, each"
    for proof in prove_epochs(run.order, prepared, fed):
        name = run.manifest.source_names[proof.source]
        if proof.holds:
            screen.say(f"epoch {proof.epoch} of {name}: {proof.rows} {what} once")
        else:
            yield f"epoch {proof.epoch} of {name}: what was fed is not all that was kept, each once"


def _name_position(run_dir: RunDir, run: Definition, step: int) -> Iterator[str]:
    """The first position of a step that fed another sample, when the run wrote down its keys."""
    if not (run_dir.path / KEYS_FOLDER).exists():
        yield f"step {step}: `data.ledger: keys` would have told at which position"
        return
    fed = read_keys(run_dir.path, [step]).get(step, [])
    positions, expected = run.order.slots(step).position, expected_spans(run.order, run.skips, step)
    wrong = find_wrong_position(positions, expected, fed)
    if wrong is None:
        yield f"step {step}: its keys are the right ones: the bytes of a sample differ, or the row was changed"
    else:
        yield f"step {step}: {wrong.tell(run.manifest)}"


def _check_checkpoints(run_dir: RunDir, screen: Screen) -> Iterator[str]:
    shelf = shelf_of_run(run_dir)
    found = list_checkpoints(shelf)
    damaged = [problem for one in found for problem in verify_on(shelf, one.name)]
    yield from damaged
    if not damaged:
        screen.say(f"checkpoints: {len(found)} are whole")


def _compare_runs(run_dir: RunDir, ledger: Ledger, other: RunDir, screen: Screen) -> Iterator[str]:
    """Ledger and losses step by step. Losses are equal on one world, and close on two: the distance is told."""
    theirs = read_ledger(other.path)
    common, ours_at, theirs_at = np.intersect1d(ledger.steps, theirs.steps, assume_unique=True, return_indices=True)
    if not common.size:
        yield f"{other.path} has no step in common"
        return
    voided = _voided_in_one(run_dir, other)
    differ = ledger.digests[ours_at] != theirs.digests[theirs_at]
    differ |= ledger.counts[ours_at] != theirs.counts[theirs_at]
    differ &= ~np.isin(common, voided)
    if differ.any():
        yield f"step {common[np.argmax(differ)]}: the two runs fed other samples"
        yield from _name_other_position(run_dir, other, int(common[np.argmax(differ)]))
    screen.say(f"against {other.path.name}: {common.size} common steps; {_tell_losses(run_dir, other, voided)}")
    if voided:
        screen.say(f"left out of one of the two for their numbers: {_name_steps(voided)}")


def _name_other_position(run_dir: RunDir, other: RunDir, step: int) -> Iterator[str]:
    """What both fed at the first position where they part, when both wrote down their keys."""
    if not all((one.path / KEYS_FOLDER).exists() for one in (run_dir, other)):
        return
    fed, fed_there = (read_keys(one.path, [step]).get(step, []) for one in (run_dir, other))
    run, there = Definition.load(run_dir), Manifest.load(other.manifest)
    wrong = find_wrong_position(run.order.slots(step).position, fed, fed_there)
    if wrong is not None:
        ours, theirs = tell_span(run.manifest, wrong.expected), tell_span(there, wrong.found)
        yield f"step {step}: position {wrong.position} was {ours}, and {theirs} in {other.path.name}"


def _voided_in_one(run_dir: RunDir, other: RunDir) -> list[int]:
    """Steps whose batch one of two runs has left out: their definitions part there, and nowhere else."""
    ours, theirs = (Skips.load(one.skips) for one in (run_dir, other))
    return sorted(ours.voided ^ theirs.voided)


def _name_steps(steps: Sequence[int]) -> str:
    named = ", ".join(f"step {step}" for step in steps[:MOST_NAMED])
    return named + (f" and {len(steps) - MOST_NAMED} more" if len(steps) > MOST_NAMED else "")


def _tell_losses(run_dir: RunDir, other: RunDir, voided: Sequence[int]) -> str:
    """Of steps that both have trained on."""
    (steps, losses), (their_steps, theirs) = read_losses(run_dir.path), read_losses(other.path)
    common, at, their_at = np.intersect1d(steps, their_steps, assume_unique=True, return_indices=True)
    trained = ~np.isin(common, voided)
    common, at, their_at = common[trained], at[trained], their_at[trained]
    if not common.size:
        return "no losses to compare"
    apart = np.abs(losses[at] - theirs[their_at])
    apart[np.isnan(losses[at]) & np.isnan(theirs[their_at])] = 0.0
    return f"largest difference of losses {apart.max():.3g}, at step {common[np.argmax(apart)]}"


def ledger_rows(run_dir: RunDir, steps: range | None) -> Iterator[dict[str, Any]]:
    """What each step fed: keys when data.ledger is `keys`, otherwise the two sums."""
    ledger = read_ledger(run_dir.path)
    chosen = [step for step in ledger if steps is None or step in steps]
    manifest = Manifest.load(run_dir.manifest) if (run_dir.path / KEYS_FOLDER).exists() else None
    for at in range(0, len(chosen), STEPS_AT_ONCE):
        some = chosen[at : at + STEPS_AT_ONCE]
        keys = {} if manifest is None else read_keys(run_dir.path, some)
        for step in some:
            if manifest is not None and step in keys:
                yield {"step": step, "keys": readable_keys(manifest, keys[step])}
            else:
                yield ledger[step]


def parse_steps(text: str) -> range:
    """A:B, B not included."""
    first, colon, last = text.partition(":")
    if not colon or not first.isdigit() or not last.isdigit() or int(first) >= int(last):
        raise BadInput("is not A:B with A below B", where=f"--steps {text}", remedy="for example --steps 0:10")
    return range(int(first), int(last))
