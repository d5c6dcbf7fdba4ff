"""What each fault has cost: how long no step was done, by what, and how many steps were done again. Pure: from the
journal and all rows of metrics.jsonl. After strike.py; judge.py holds it against the promises."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from launch.chaos.faults import OF_NUMBERS, UNSEEN, Fault, Kind
from launch.chaos.strike import Struck
from orchestrator.tracking.journal import Event
from orchestrator.tracking.rows import Row

CLOSE_STEPS = 10  # after a fault that training should not feel, so many are looked at
_GIVEN_UP = ("fault", "leaving", "left")  # of a world
_TROUBLES = {Kind.NAN: "not_finite", Kind.NAN_ONCE: "not_repeated", Kind.SPIKE: "loss_spike"}  # in the journal
_CLOCK_S = 0.001  # the journal rounds to milliseconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Recovery:
    """`recovery_s` from the moment it was struck to the beginning of the first new step: None when that never came.
    Of an added node, from the last step of the old world; 0 where none was given up: then `slowest` is how much slower
    than the median the slowest step after it was."""

    fault: Fault
    t: float
    step: int  # updates done when it was struck
    recovery_s: float | None
    steps_replayed: int = 0
    left_out: int = 0  # snapshots that were due among these steps, when the one before them was still on its way
    labels: dict[str, float] = field(default_factory=dict)
    slowest: float | None = None
    late_s: float = 0.0  # after the step that it was to be struck at, it was seen to be time for it


@dataclass(frozen=True, kw_only=True, slots=True)
class _World:
    """One that has begun to train, at `t`; `seconds`: what that took its ranks, by part."""

    generation: int
    step: int
    t: float
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Told:
    """Events in order, the rows of steps by time, and what both say of worlds."""

    events: Sequence[Event]
    rows: Sequence[Row]
    worlds: Sequence[_World]
    struck: Sequence[Struck]  # what breaks worlds

    def breaks(self) -> Iterator[tuple[float, float]]:
        """When a world that trained was broken, and when the world before it was given up."""
        trains, before = False, -math.inf
        for event in self.events:
            if trains and event["event"] == "fault":
                yield event["t"], before
            if event["event"] in _GIVEN_UP:
                trains, before = False, event["t"]
            trains = trains or event["event"] == "training"

    def trained(self, t: float) -> bool:
        """Whether there was a world then that trained."""
        turns = [e["event"] for e in self.events if e["event"] in ("training", *_GIVEN_UP) and e["t"] <= t]
        return bool(turns) and turns[-1] == "training"

    def first(self, kind: str, since: float) -> Event | None:
        return next((e for e in self.events if e["event"] == kind and e["t"] >= since - _CLOCK_S), None)

    def next_world(self, since: float) -> _World | None:
        return next((world for world in self.worlds if world.t >= since - _CLOCK_S), None)

    def steps_after(self, struck: Struck, until: float) -> bool:
        """Whether a step was begun and done after the fault had been struck."""
        return any(row["t"] - row["step_s"] > struck.sent and row["t"] < until for row in self.rows)


def measure(
    struck: Sequence[Struck], in_drill: Sequence[Fault], events: Sequence[Event], rows: Sequence[Row]
) -> list[Recovery]:
    """Of what was struck, and of what ranks did to themselves, in order of time; what they have not come to is left
    out."""
    steps = sorted((row for row in rows if "kind" not in row and "step" in row), key=lambda row: float(row["t"]))
    events = sorted(events, key=lambda event: float(event["t"]))  # a new controller writes down what ranks told before
    strikes = [*struck, *(one for fault in in_drill for one in _strikes_of(fault, events))]
    breaking = [one for one in strikes if one.fault.kind not in UNSEEN]
    told = _Told(events, steps, list(_worlds(events, steps)), breaking)
    found = [replace(_measure(one, told), late_s=_late(one, told)) for one in strikes]
    return sorted(found, key=lambda recovery: recovery.t)


def _late(struck: Struck, told: _Told) -> float:
    """After its step was done. What ranks do to themselves is never late."""
    if struck.fault.step is None or struck.fault.kind in OF_NUMBERS:
        return 0.0
    done = (row["t"] for row in told.rows if row["step"] == struck.fault.step - 1)
    return max(0.0, struck.due - next(done, struck.due))


def _worlds(events: Sequence[Event], rows: Sequence[Row]) -> Iterator[_World]:
    """A world begins with its first step: its row knows best when that was, the journal hears of it."""
    first: dict[int, float] = {}
    for row in rows:
        first.setdefault(row["generation"], row["t"] - row["step_s"])
    started: Event = {}
    for event in events:
        if event["event"] == "started":
            started = event
        if event["event"] == "training":
            generation = started["generation"]
            t = min(event["t"], first.get(generation, event["t"]))
            yield _World(generation=generation, step=started["step"], t=t, seconds=event["seconds"])


def _strikes_of(fault: Fault, events: Sequence[Event]) -> Iterator[Struck]:
    """When a number went wrong, as the journal says; what came of it is another matter."""
    for event in events:
        if event["event"] == _TROUBLES[fault.kind] and event["step"] == fault.step:
            yield Struck(fault=fault, due=event["t"], t=event["t"], sent=event["t"], step=event["step"])
            return


def _measure(struck: Struck, told: _Told) -> Recovery:
    if struck.fault.kind in UNSEEN:
        return _measure_unseen(struck, told)
    if struck.fault.kind is Kind.ADD_NODE:
        return _measure_pause(struck, told)
    return _measure_world(struck, told)


def _measure_unseen(struck: Struck, told: _Told) -> Recovery:
    """Training goes on: before the next step is done no world breaks that nothing else has been struck at, and the run
    does not fail."""
    next_t = min((row["t"] for row in told.rows if row["t"] - row["step_s"] > struck.t), default=math.inf)
    breaks = [(t, before) for t, before in told.breaks() if struck.t <= t < next_t]
    held_up = any(not any(before < other.t <= t for other in told.struck) for t, before in breaks)
    failed = told.first("failed", struck.t)
    held_up = held_up or (failed is not None and failed["t"] < next_t)
    return Recovery(
        fault=struck.fault,
        t=struck.t,
        step=struck.step,
        recovery_s=None if held_up else 0.0,
        slowest=_slowest_after(struck.t, told.rows),
    )


def _slowest_after(t: float, rows: Sequence[Row]) -> float | None:
    """Against the median of all steps of the run."""
    after = [row["step_s"] for row in rows if row["t"] > t][:CLOSE_STEPS]
    return max(after) / median(row["step_s"] for row in rows) if after else None


def _measure_pause(struck: Struck, told: _Told) -> Recovery:
    """A node that comes is waited for by nobody: what counts is how long no step was done for its sake."""
    left = told.first("left", struck.t)
    world = told.next_world(left["t"]) if left is not None else None
    if told.first("node_joined", struck.t) is None:
        return Recovery(fault=struck.fault, t=struck.t, step=struck.step, recovery_s=None)
    if left is None or world is None:
        return _measure_unseen(struck, told)  # it is a spare
    since = max((row["t"] for row in told.rows if row["t"] <= left["t"]), default=left["t"])
    labels = {"leave": left["t"] - since, **_forming_labels(world, left["t"])}
    return _recovery(struck, world.t - since, told, world, labels)


def _measure_world(struck: Struck, told: _Told) -> Recovery:
    given_up = told.first("left" if struck.fault.kind is Kind.SPIKE else "fault", struck.t)
    if told.steps_after(struck, given_up["t"] if given_up is not None else math.inf):
        if not told.trained(struck.t):
            return _measure_rest(struck, told)
        return _measure_unseen(struck, told)  # what was struck was not at work, or came back before it was missed
    freed = told.first("freed", given_up["t"]) if given_up is not None else None
    world = told.next_world(given_up["t"]) if given_up is not None else None
    if given_up is None or world is None:
        return Recovery(fault=struck.fault, t=struck.t, step=struck.step, recovery_s=None)
    freed_t = min(freed["t"], world.t) if freed is not None else given_up["t"]
    labels = {"detect": given_up["t"] - struck.t, "abort": freed_t - given_up["t"], **_forming_labels(world, freed_t)}
    labels["replay"] = _replay_seconds(told, world, _count_replayed(told, world))
    return _recovery(struck, world.t - struck.t, told, world, labels)


def _measure_rest(struck: Struck, told: _Told) -> Recovery:
    """Struck while a new world was being made anyway, which needed no other one for it."""
    world = told.next_world(struck.t)
    if world is None:
        return Recovery(fault=struck.fault, t=struck.t, step=struck.step, recovery_s=None)
    return _recovery(struck, world.t - struck.t, told, world, _forming_labels(world, struck.t))


def _forming_labels(world: _World, since: float) -> dict[str, float]:
    """What a new world reads is told by its ranks; the rest went into finding them and the state, and joining."""
    restore = min(world.seconds.get("restore", 0.0) + world.seconds.get("read", 0.0), world.t - since)
    return {"re-form": world.t - since - restore, "restore": restore}


def _count_replayed(told: _Told, world: _World) -> int:
    """Steps whose rows were written before, and that the new world does again."""
    done = max((row["step"] + 1 for row in told.rows if row["generation"] < world.generation), default=0)
    return max(0, done - world.step)


def _count_left_out(told: _Told, world: _World) -> int:
    """As the rows of the last of these steps count them."""
    again = [row for row in told.rows if row["generation"] < world.generation and row["step"] >= world.step]
    last = max(again, key=lambda row: int(row["step"]), default=None)
    counts = [row.get("snapshots_skipped", 0) for row in again if last and row["generation"] == last["generation"]]
    return int(max(counts, default=0) - min(counts, default=0))


def _replay_seconds(told: _Told, world: _World, replayed: int) -> float:
    again = range(world.step, world.step + replayed)
    mine = (row for row in told.rows if row["generation"] == world.generation)
    return math.fsum(row["step_s"] for row in mine if row["step"] in again)


def _recovery(struck: Struck, recovery_s: float, told: _Told, world: _World, labels: dict[str, float]) -> Recovery:
    rounded = {name: round(seconds, 3) for name, seconds in labels.items()}
    return Recovery(
        fault=struck.fault,
        t=struck.t,
        step=struck.step,
        recovery_s=round(recovery_s, 3),
        steps_replayed=_count_replayed(told, world),
        left_out=_count_left_out(told, world),
        labels=rounded,
    )
