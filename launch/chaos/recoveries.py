"""What each fault has cost: how long no step was done, by what, and how many steps were done again. Pure: from the
journal and all rows of metrics.jsonl. After strike.py; judge.py holds it against the promises."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from launch.chaos.faults import OF_NUMBERS, UNSEEN, Fault, Kind
from launch.chaos.strike import Struck
from orchestrator.tracking.journal import Event
from orchestrator.tracking.rows import Row

CLOSE_STEPS = 10  # after a fault that training should not feel, so many are looked at
_GIVEN_UP = ("fault", "leaving", "left")  # of a world
_CLOCK_S = 0.001  # the journal rounds to milliseconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Recovery:
    """`recovery_s` from the moment it was struck to the beginning of the first new step: None when that never came.
    Of an added node, from the last step of the old world; 0 where no world was given up, then `slowest` is how much
    slower than the median the slowest step after it was."""

    fault: Fault
    t: float
    step: int  # updates done when it was struck
    recovery_s: float | None
    steps_replayed: int = 0
    labels: dict[str, float] = field(default_factory=dict)
    slowest: float | None = None


@dataclass(frozen=True, slots=True)
class _Told:
    """Events in order, and the rows of steps by time."""

    events: Sequence[Event]
    rows: Sequence[Row]

    def first(self, kind: str, since: float) -> Event | None:
        return next((e for e in self.events if e["event"] == kind and e["t"] >= since - _CLOCK_S), None)

    def started_before(self, training: Event) -> Event:
        """The world that has begun to train."""
        return [e for e in self.events if e["event"] == "started" and e["t"] <= training["t"]][-1]

    def last_row_before(self, t: float) -> Row | None:
        return next((row for row in reversed(self.rows) if row["t"] <= t), None)


def measure(
    struck: Sequence[Struck], in_drill: Sequence[Fault], events: Sequence[Event], rows: Sequence[Row]
) -> list[Recovery]:
    """Of what was struck, and of what ranks did to themselves, in order of time; what they have not come to is left
    out."""
    steps = sorted((row for row in rows if "kind" not in row and "step" in row), key=lambda row: float(row["t"]))
    told = _Told(events, steps)
    found = [_measure(one, told) for one in struck]
    found += [_measure(one, told) for fault in in_drill for one in _strikes_of(fault, events)]
    return sorted(found, key=lambda recovery: recovery.t)


def _strikes_of(fault: Fault, events: Sequence[Event]) -> Iterator[Struck]:
    """When a number went wrong, as the journal says."""
    assert fault.kind in OF_NUMBERS
    kind = {Kind.NAN_ONCE: "not_repeated"}.get(fault.kind, "voided")
    for event in events:
        if event["event"] == kind and event["step"] == fault.step:
            yield Struck(fault=fault, t=event["t"], step=event["step"])
            return


def _measure(struck: Struck, told: _Told) -> Recovery:
    if struck.fault.kind in UNSEEN:
        return _measure_unseen(struck, told)
    if struck.fault.kind is Kind.ADD_NODE:
        return _measure_pause(struck, told)
    return _measure_world(struck, told)


def _measure_unseen(struck: Struck, told: _Told) -> Recovery:
    """Training goes on: no new world begins before a step is done, and no step takes long."""
    slowest = _slowest_after(struck.t, told.rows)
    given_up = [told.first(kind, struck.t) for kind in _GIVEN_UP]
    next_row = next((row for row in told.rows if row["t"] - row["step_s"] > struck.t), None)
    held_up = any(e is not None and (next_row is None or e["t"] < next_row["t"]) for e in given_up)
    return Recovery(
        fault=struck.fault, t=struck.t, step=struck.step, recovery_s=None if held_up else 0.0, slowest=slowest
    )


def _slowest_after(t: float, rows: Sequence[Row]) -> float | None:
    """Against the median of all steps of the run."""
    after = [row["step_s"] for row in rows if row["t"] > t][:CLOSE_STEPS]
    return max(after) / median(row["step_s"] for row in rows) if after else None


def _measure_pause(struck: Struck, told: _Told) -> Recovery:
    """A node that comes is waited for by nobody: what counts is how long no step was done for its sake."""
    left = told.first("left", struck.t)
    training = told.first("training", left["t"]) if left is not None else None
    if left is None or training is None:
        return Recovery(fault=struck.fault, t=struck.t, step=struck.step, recovery_s=None)
    last = told.last_row_before(left["t"])
    since = last["t"] if last is not None else left["t"]
    labels = {"leave": left["t"] - since, **_forming_labels(training, left["t"])}
    replayed = _count_replayed(told, training, since)
    return _recovery(struck, training["t"] - since, replayed, labels)


def _measure_world(struck: Struck, told: _Told) -> Recovery:
    if struck.fault.kind is Kind.SPIKE:
        given_up, freed = struck.t, told.first("left", struck.t)
    else:
        fault = told.first("fault", struck.t)
        if fault is None:
            return _unless_healed(struck, told)
        given_up, freed = fault["t"], told.first("freed", fault["t"])
    training = told.first("training", given_up)
    if training is None:
        return Recovery(fault=struck.fault, t=struck.t, step=struck.step, recovery_s=None)
    freed_t = min(freed["t"], training["t"]) if freed is not None else given_up
    labels = {"detect": given_up - struck.t, "abort": freed_t - given_up, **_forming_labels(training, freed_t)}
    replayed = _count_replayed(told, training, given_up)
    labels["replay"] = _replay_seconds(told, training, replayed)
    return _recovery(struck, training["t"] - struck.t, replayed, labels)


def _unless_healed(struck: Struck, told: _Told) -> Recovery:
    """A node that was cut off for a shorter time than it takes to be missed holds up steps, and no more."""
    healed = struck.fault.kind is Kind.CUT_NODE and any(row["t"] > struck.t for row in told.rows)
    return Recovery(
        fault=struck.fault,
        t=struck.t,
        step=struck.step,
        recovery_s=0.0 if healed else None,
        slowest=_slowest_after(struck.t, told.rows),
    )


def _forming_labels(training: Event, since: float) -> dict[str, float]:
    """What a new world is made of; the rest of its time went into finding ranks and state, and handing them out."""
    seconds = training.get("seconds", {})
    restore, read = (float(seconds.get(part, 0.0)) for part in ("restore", "read"))
    return {"re-form": training["t"] - since - restore - read, "restore": restore, "read": read}


def _count_replayed(told: _Told, training: Event, given_up: float) -> int:
    """Steps whose rows were written before, and that the new world does again."""
    begins_at = told.started_before(training)["step"]
    done = max((row["step"] + 1 for row in told.rows if row["t"] <= given_up), default=0)
    return max(0, done - begins_at)


def _replay_seconds(told: _Told, training: Event, replayed: int) -> float:
    started = told.started_before(training)
    again = range(started["step"], started["step"] + replayed)
    mine = [row for row in told.rows if row["generation"] == started["generation"] and row["step"] in again]
    return sum(row["step_s"] for row in mine)


def _recovery(struck: Struck, recovery_s: float, replayed: int, labels: dict[str, float]) -> Recovery:
    rounded = {name: round(seconds, 3) for name, seconds in labels.items()}
    return Recovery(
        fault=struck.fault,
        t=struck.t,
        step=struck.step,
        recovery_s=round(recovery_s, 3),
        steps_replayed=replayed,
        labels=rounded,
    )
