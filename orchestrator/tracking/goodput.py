"""What a run's time went into: every second in which a controller had charge of it has one label.

Comes after the journal and the rows of metrics.jsonl, all of all generations; stretch.py shares out the time between a
world's first step and its end. Shown by status, W&B and the closing summary. Times are whole microseconds, so that
nothing is lost in adding up."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.tracking.journal import Event, read_events
from orchestrator.tracking.rows import METRICS_FILE, Row, read_rows
from orchestrator.tracking.stretch import Lineage, Stretch, micros, share_out

LABELS = (
    *("start", "step", "data wait", "snapshot", "checkpoint", "evaluate"),
    *("detect", "re-form", "restore", "replay", "lost", "idle"),
)
GOOD = ("step", "replay")  # what a replayed step did at first is lost; so every step counts once
_ENDS = {"stopped", "failed", "done"}
_OF_NO_WORLD = {"started", "fault", "restarting", "left", *_ENDS}  # behind these a world is not there any more


@dataclass(frozen=True, slots=True)
class TimeSpent:
    """By label, in seconds, and in seconds of all ranks of the world that was there."""

    seconds: dict[str, float]
    rank_seconds: dict[str, float]

    @property
    def goodput(self) -> float | None:
        """The share of steps that count. None when there is nothing to tell yet."""
        return _share(self.seconds)

    @property
    def rank_goodput(self) -> float | None:
        return _share(self.rank_seconds)


def _share(seconds: dict[str, float]) -> float | None:
    good = math.fsum(seconds[label] for label in GOOD)
    return good / math.fsum(seconds.values()) if good else None


def label_time(events: Iterable[Event], rows: Iterable[Row], until: float) -> TimeSpent:
    """`rows` may be a sample of them all: then what lies between is shared out like what is known.

    A run that was stopped costs nothing until it is resumed; one whose controller is lost does, up to `until`."""
    account = _Account(_in_order(events), list(rows))
    account.go_through(until)
    return TimeSpent(_in_seconds(account.spent), _in_seconds(account.rank_spent))


def read_time(run_dir: Path, until: float) -> TimeSpent:
    """From all rows of a run: for when it has ended."""
    return label_time(read_events(run_dir / "events"), read_rows(run_dir / METRICS_FILE), until)


def _in_order(events: Iterable[Event]) -> list[Event]:
    """What ranks tell of their beginning may be written down late, by a new controller or in the next world: it belongs
    to its time, in its own. All else stays in the order of the journal, whatever clocks say."""
    ordered: list[Event] = []
    for event in events:
        place = _find_place(ordered, event) if event["event"] == "training" else len(ordered)
        ordered.insert(place, event)
    return ordered


def _find_place(ordered: Sequence[Event], training: Event) -> int:
    """Behind the start of its world, before the end of that."""
    place = len(ordered)
    for number in range(len(ordered), 0, -1):
        before = ordered[number - 1]
        if before["event"] == "started" and before["generation"] <= training.get("world", before["generation"]):
            break
        is_later = place == number and before["t"] > training["t"]
        if is_later or before["event"] in _OF_NO_WORLD:
            place = number - 1
    return place


def _in_seconds(spent: Counter[str]) -> dict[str, float]:
    return {label: spent[label] / 1e6 for label in LABELS}


@dataclass(slots=True)
class _Account:
    """Walks through the journal; `_label` is what the time since the last event was spent on."""

    events: list[Event]
    rows: list[Row]
    spent: Counter[str] = field(default_factory=Counter)
    rank_spent: Counter[str] = field(default_factory=Counter)
    _label: str | None = None  # None: nobody has charge of the run
    _ranks: int = 0
    _at: int = 0
    _started: Event = field(default_factory=dict)  # the newest world
    _world: Event | None = None  # the one that trains

    def go_through(self, until: float) -> None:
        lineage = Lineage.of(self.events, self.rows)
        for place, event in enumerate(self.events):
            self._pass(event, self.events[place + 1 :], lineage)
        if self._label is not None:
            self._spend_until(micros(until), lineage, tail="idle")  # a step counts once it is done

    def _pass(self, event: Event, later: Sequence[Event], lineage: Lineage) -> None:
        t = micros(event["t"])
        match event["event"]:
            case "claimed" if not _is_adopted(later):
                self._claim(t, lineage)
            case "warming" if self._label == "idle":
                self._spend_until(t, lineage)
                self._label, self._ranks = "start", _next_world_size(later)
            case "node_joined" if self._label == "re-form":  # until then there were too few
                self._add("idle", max(0, t - self._at))
                self._at = max(self._at, t)
            case "started":
                self._spend_until(t, lineage)
                self._started, self._ranks = event, event["world_size"]
                if not lineage.tells_beginning(event) and lineage.has_rows(event):
                    self._world = event
                elif self._label == "idle":
                    self._label = "start"
            case "training" if self._label is not None and self._world is None:
                self._begin_training(event, t, lineage)
            case "fault" | "restarting":  # as earlier versions said
                self._spend_until(t, lineage, tail="detect", done=event.get("step"))
                self._label, self._world = "re-form", None
            case "left":
                self._spend_until(t, lineage, tail="re-form", done=event.get("step"))
                self._label, self._world = "re-form", None
            case kind if kind in _ENDS and self._label is not None:
                tail = "detect" if kind == "failed" else "checkpoint"
                self._spend_until(t, lineage, tail=tail, done=event.get("step"))
                self._label, self._world = None, None

    def _claim(self, t: int, lineage: Lineage) -> None:
        """To begin, to go on after a stop, to form another world, or because the controller before was lost."""
        if self._label is None:
            self._label, self._at, self._ranks = "idle", t, 0
        elif self._world is not None:
            self._spend_until(t, lineage, tail="idle")
            self._label, self._world = "idle", None

    def _begin_training(self, event: Event, t: int, lineage: Lineage) -> None:
        """What the world has told of its beginning is the end of the time that it took."""
        began = t = lineage.began(self._started, t)
        parts = event.get("seconds", {}) if self._label == "re-form" else {}
        for label, part in (("data wait", "read"), ("restore", "restore")):
            spent = min(max(0, t - self._at), micros(parts.get(part, 0.0)))
            self._add(label, spent)
            t -= spent
        self._spend_until(t, lineage)
        self._at = max(self._at, began)
        self._world = self._started

    def _spend_until(self, t: int, lineage: Lineage, tail: str | None = None, done: int | None = None) -> None:
        """`tail`: what came between a world's last step and its end. `done`: updates by then."""
        if self._label is None or t <= self._at:
            return
        if self._world is None:
            self._add(self._label, t - self._at)
        else:
            stretch = Stretch(self._world, self._at, t, tail or self._label, done)
            for label, spent in share_out(stretch, lineage):
                self._add(label, spent)
        self._at = t

    def _add(self, label: str, spent: int) -> None:
        self.spent[label] += spent
        self.rank_spent[label] += spent * self._ranks


def _is_adopted(later: Sequence[Event]) -> bool:
    """A new controller that finds the ranks at work changes nothing for them."""
    telling = ("claimed", "adopted", "started")
    return next((event["event"] for event in later if event["event"] in telling), "") == "adopted"


def _next_world_size(later: Sequence[Event]) -> int:
    return next((event["world_size"] for event in later if event["event"] == "started"), 0)
