"""Two runs held against each other: what was fed, losses, final weights. judge.py says which of it must be equal."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from orchestrator.checkpoint.found import list_checkpoints
from orchestrator.checkpoint.reader import StateReader, open_checkpoint
from orchestrator.tracking.rows import Ledger, read_ledger, read_losses
from orchestrator.tracking.rundir import RunDir

_PIECE = 1 << 22  # elements compared at once


def find_other_step(ours: RunDir, theirs: RunDir, but: frozenset[int] = frozenset()) -> int | None:
    """The first step, of all but those left out on purpose, that one of the two has not fed, or fed otherwise."""
    mine, other = (
        {step: _fed(ledger, step) for step in ledger if step not in but} for ledger in _ledgers(ours, theirs)
    )
    return min((step for step in mine.keys() | other.keys() if mine.get(step) != other.get(step)), default=None)


def largest_difference(ours: RunDir, theirs: RunDir, *, before: int | None = None) -> float:
    """Of losses, over common steps, with no loss in both being equal; infinite when only one has none."""
    (steps, losses), (their_steps, their_losses) = read_losses(ours.path), read_losses(theirs.path)
    common, at, their_at = np.intersect1d(steps, their_steps, assume_unique=True, return_indices=True)
    here = slice(None) if before is None else common < before
    return _distance(losses[at][here], their_losses[their_at][here])


def largest_weight_difference(ours: RunDir, theirs: RunDir) -> float:
    """Of every state in the last checkpoints of both: 0 means bit for bit."""
    mine, other = _last_state(ours), _last_state(theirs)
    try:
        if mine.step != other.step or mine.tensors.keys() != other.tensors.keys():
            return float("inf")
        return max(_differences(mine, other), default=0.0)
    finally:
        mine.close()
        other.close()


def _ledgers(*runs: RunDir) -> Iterator[Ledger]:
    return (read_ledger(run.path) for run in runs)


def _fed(ledger: Ledger, step: int) -> tuple[str, str, int]:
    row = ledger[step]
    return row["order_digest"], row["set_digest"], row["count"]


def _distance(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    if not ours.size:
        return 0.0
    equal = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    apart = np.where(equal, 0.0, np.abs(ours - theirs))
    return float(np.where(np.isnan(apart), np.inf, apart).max())


def _last_state(run: RunDir) -> StateReader:
    return open_checkpoint(list_checkpoints(run.checkpoints)[-1].path)


def _differences(ours: StateReader, theirs: StateReader) -> Iterator[float]:
    for name, tensor in ours.tensors.items():
        if ours.states(name) != theirs.states(name):
            yield float("inf")
            continue
        for state in ours.states(name):
            for begin in range(0, tensor.numel, _PIECE):
                count = min(_PIECE, tensor.numel - begin)
                mine, other = (one.read(name, state, begin, count).double().numpy() for one in (ours, theirs))
                yield _distance(mine, other)
