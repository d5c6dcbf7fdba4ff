"""How much of a run's time went into steps. Comes after the journal and metrics.jsonl; shown by status."""

from collections.abc import Iterable, Sequence
from statistics import fmean

from orchestrator.tracking.journal import Event
from orchestrator.tracking.rows import Row

_ENDS = {"stopped", "failed", "done"}


def held_seconds(events: Iterable[Event], until: float) -> float:
    """Seconds in which a controller had charge of the run: from each claim to the end, the next claim, or `until`.

    A run that was stopped costs nothing until it is resumed; one whose controller died does."""
    held, since = 0.0, None
    for event in events:
        if event["event"] == "claimed" or event["event"] in _ENDS:
            held += event["t"] - since if since is not None else 0.0
            since = event["t"] if event["event"] == "claimed" else None
    return held + (max(0.0, until - since) if since is not None else 0.0)


def goodput(sample: Sequence[Row], step: int, held_s: float) -> float | None:
    """Step seconds over held seconds. Waiting for data is no step; steps that had to be done again count once.

    `sample`: true rows from all over the run, `step`: how many there are. None when there is nothing to tell yet."""
    if not sample or held_s <= 0:
        return None
    return min(1.0, step * fmean(row["step_s"] - row["data_wait_s"] for row in sample) / held_s)
