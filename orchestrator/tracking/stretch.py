"""A stretch of a run in which one world trained, shared out over what its steps say they took. For goodput.py."""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

from orchestrator.tracking.journal import Event
from orchestrator.tracking.rows import Row

Shares = Iterator[tuple[str, int]]  # label, microseconds


@dataclass(frozen=True, slots=True)
class Stretch:
    """From `begin` to `end`, in microseconds; `tail` is the label of what comes after its last step."""

    world: Event  # its `started`
    begin: int
    end: int
    tail: str
    done: int | None = None  # updates done by its end, where the journal says so


@dataclass(frozen=True, slots=True)
class Lineage:
    """Which steps each generation did, and which of them were done before or had to be done again."""

    rows: dict[int, list[Row]]  # by generation, in order of time
    times: dict[int, list[int]]
    validated: dict[int, dict[int, int]]  # by generation and step: when
    saved: set[int]  # before these steps there was a checkpoint
    reached: dict[int, int]  # by generation: steps that earlier ones had done
    kept: dict[int, float]  # by generation: from this step on a later one did them again
    told: set[int]  # generations whose journal says when training began
    usual: Counter[str]  # what the time of all steps that are known was spent on
    step_micros: int  # of one of them

    @classmethod
    def of(cls, events: Sequence[Event], rows: Iterable[Row]) -> Self:
        steps: dict[int, list[Row]] = defaultdict(list)
        validated: dict[int, dict[int, int]] = defaultdict(dict)
        for row in (row for row in rows if "t" in row and "step" in row):  # rows of earlier versions lack the time
            if "kind" not in row:
                steps[row["generation"]].append(row)
            elif row.get("kind") == "evaluation":
                validated[row["generation"]][row["step"]] = micros(row["t"])
        for own in steps.values():
            own.sort(key=lambda row: float(row["t"]))
        done = {generation: max(row["step"] + 1 for row in own) for generation, own in steps.items()}
        first = {event["generation"]: _first_step(event, steps) for event in events if event["event"] == "started"}
        worlds = sorted(first)
        saved = {event["step"] for event in events if event["event"] == "checkpoint"}
        usual, known = _usual(steps, saved, validated)
        return cls(
            rows=steps,
            times={generation: [micros(row["t"]) for row in own] for generation, own in steps.items()},
            validated=validated,
            saved=saved,
            reached={g: max((done[e] for e in done if e < g), default=0) for g in worlds},
            kept={g: min((first[later] for later in worlds if later > g), default=float("inf")) for g in worlds},
            told={_world_of(event, worlds) for event in events if event["event"] == "training"},
            usual=usual,
            step_micros=usual.total() // max(1, known),
        )

    def tells_beginning(self, world: Event) -> bool:
        return world["generation"] in self.told

    def has_rows(self, world: Event) -> bool:
        return world["generation"] in self.rows

    def began(self, world: Event, told: int) -> int:
        """When its first step did: its row knows, the journal hears of it a moment later (`told`)."""
        rows = self.rows.get(world["generation"], [])
        if not rows or rows[0]["step"] != world.get("step"):
            return told
        return min(told, micros(rows[0]["t"]) - micros(rows[0]["step_s"]))

    def count(self, generation: int, steps: range) -> Counter[str]:
        """How many of them were lost, done again, and done once."""
        lost = max(0, steps.stop - max(steps.start, self.kept[generation]))
        replay = max(0, min(steps.stop - lost, self.reached[generation]) - steps.start)
        return Counter({"lost": int(lost), "replay": int(replay), "step": int(len(steps) - lost - replay)})


def share_out(stretch: Stretch, lineage: Lineage) -> Shares:
    """Adds up to the length of the stretch. Where rows are left out, the time went like that of the others."""
    generation = stretch.world["generation"]
    times = lineage.times.get(generation, [])
    first, last = bisect_right(times, stretch.begin), bisect_right(times, stretch.end)
    at, before = stretch.begin, _step_before(stretch, lineage, first)
    for row, t in zip(lineage.rows.get(generation, [])[first:last], times[first:last], strict=True):
        steps = range(before + 1, row["step"] + 1)
        yield from (
            _share_step(row, t - at, lineage) if len(steps) == 1 else _share_gap(t - at, steps, lineage, generation)
        )
        at, before = t, max(before, row["step"])
    untold = range(before + 1, stretch.done or 0)
    length = min(stretch.end - at, len(untold) * lineage.step_micros)
    yield from _share_gap(length, untold, lineage, generation)
    yield from _share_tail(stretch, at + length, before, lineage)


def _share_step(row: Row, length: int, lineage: Lineage) -> Shares:
    generation, step = row["generation"], row["step"]
    [(label, _)] = lineage.count(generation, range(step, step + 1)).most_common(1)
    if label == "lost":
        yield label, length
        return
    for part, spent in _split(row, length, lineage.saved, lineage.validated):
        yield label if part == "step" else part, spent


def _split(row: Row, length: int, saved: Set[int], validated: Mapping[int, Mapping[int, int]]) -> Shares:
    """Pause, wait and step as the row tells them; what is left before it went into a validation, or nothing."""
    wait, whole = micros(row["data_wait_s"]), micros(row["step_s"])
    pause = "checkpoint" if row["step"] in saved else "snapshot"
    for part, wanted in (("step", whole - wait), ("data wait", wait), (pause, micros(row.get("pause_s", 0.0)))):
        spent = min(length, max(0, wanted))
        length -= spent
        yield part, spent
    yield "evaluate" if row["step"] in validated.get(row["generation"], {}) else "idle", length


def _share_gap(length: int, steps: range, lineage: Lineage, generation: int) -> Shares:
    """As much of it is lost as of its steps; the rest went like that of all steps that are known."""
    if not steps:
        yield "idle", length
        return
    counts = lineage.count(generation, steps)
    lost = length * counts["lost"] // len(steps)
    yield "lost", lost
    kept = left = length - lost
    whole = sum(lineage.usual.values())
    for label, spent in lineage.usual.items():
        if label != "step":
            left -= kept * spent // whole
            yield label, kept * spent // whole
    replayed = left * counts["replay"] // max(1, counts["replay"] + counts["step"])
    yield "replay", replayed
    yield "step", left - replayed


def _share_tail(stretch: Stretch, at: int, before: int, lineage: Lineage) -> Shares:
    """A last validation, then whatever ended the stretch."""
    validated = lineage.validated.get(stretch.world["generation"], {}).get(before + 1)
    if validated is not None and at < validated <= stretch.end:
        yield "evaluate", validated - at
        at = validated
    yield stretch.tail, stretch.end - at


def _step_before(stretch: Stretch, lineage: Lineage, first: int) -> int:
    """The last step done before the stretch begins."""
    rows = lineage.rows.get(stretch.world["generation"], [])
    if first:
        return int(rows[first - 1]["step"])
    step: Any = stretch.world.get("step")
    return int(rows[0]["step"] if step is None and rows else step or 0) - 1


def _usual(
    steps: Mapping[int, Sequence[Row]], saved: Set[int], validated: Mapping[int, Mapping[int, int]]
) -> tuple[Counter[str], int]:
    """What steps whose row before is there, too, were spent on, and how many they are."""
    usual, known = Counter[str](), 0
    for own in steps.values():
        for before, row in pairwise(own):
            if row["step"] - before["step"] == 1:
                known += 1
                for part, spent in _split(row, micros(row["t"]) - micros(before["t"]), saved, validated):
                    usual[part] += spent
    return usual, known


def _first_step(started: Event, steps: dict[int, list[Row]]) -> float:
    """Journals of earlier versions leave it to the rows."""
    if "step" in started:
        return int(started["step"])
    rows = steps.get(started["generation"])
    return int(rows[0]["step"]) if rows else float("inf")


def _world_of(training: Event, worlds: Sequence[int]) -> int:
    """A controller that took over claims a generation, the world keeps its own; earlier versions do not say which."""
    newest = int(training.get("world") or training["generation"])
    return max((world for world in worlds if world <= newest), default=0)


def micros(seconds: float) -> int:
    return round(seconds * 1e6)
