"""Every second of a run has one label; the labels add up to the time in which it was held."""

import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.tracking.goodput import LABELS, TimeSpent, label_time

SECONDS = {"join": 0.2, "build": 0.3, "restore": 0.5, "read": 0.25}


class Told:
    """A run as its journal and rows tell it, on a clock of its own."""

    def __init__(self, t: float = 100.0) -> None:
        self.t, self.generation, self.world = t, 0, 0
        self.events: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []

    def say(self, event: str, after_s: float = 0.0, **fields: Any) -> "Told":
        self.t += after_s
        self.generation += event == "claimed"
        if event == "started":
            self.world = self.generation
        self.events.append({"t": self.t, "event": event, "generation": self.generation, **fields})
        return self

    def begin(self, step: int = 0, *, ranks: int = 2, warming_s: float = 4.0, forming_s: float = 2.0) -> "Told":
        """Claimed, waiting for 1 s, warm, trains."""
        self.say("claimed").say("warming", 1.0).say("started", warming_s, step=step, world_size=ranks)
        return self.say("training", forming_s, step=step, seconds=SECONDS)

    def re_form(self, step: int, *, ranks: int = 2, forming_s: float = 2.0) -> "Told":
        self.say("claimed").say("started", step=step, world_size=ranks)
        return self.say("training", forming_s, step=step, seconds=SECONDS)

    def train(self, steps: Iterable[int], step_s: float = 1.0, wait_s: float = 0.1, **fields: Any) -> "Told":
        for step in steps:
            self.t += step_s + fields.get("pause_s", 0.0)
            at = {"step": step, "generation": self.world, "t": self.t}
            self.rows.append(at | {"step_s": step_s, "data_wait_s": wait_s} | fields)
        return self

    def validate(self, step: int, seconds: float) -> "Told":
        self.t += seconds
        self.rows.append({"kind": "evaluation", "step": step, "generation": self.world, "t": self.t})
        return self

    def spent(self, rows: list[dict[str, Any]] | None = None, after_s: float = 0.0) -> TimeSpent:
        return label_time(self.events, self.rows if rows is None else rows, self.t + after_s)

    def seconds(self) -> dict[str, float]:
        return {label: seconds for label, seconds in self.spent().seconds.items() if seconds}


def approx(**seconds: float) -> Any:
    return pytest.approx({name.replace("_", " ").replace("re form", "re-form"): s for name, s in seconds.items()})


def test_the_beginning_is_idle_until_nodes_are_there_then_start() -> None:
    assert Told().begin().seconds() == approx(idle=1.0, start=6.0)


def test_a_step_is_split_into_wait_and_work() -> None:
    assert Told().begin().train(range(10)).seconds() == approx(idle=1.0, start=6.0, step=9.0, data_wait=1.0)


def test_pauses_are_snapshots_unless_a_checkpoint_was_written_there() -> None:
    told = Told().begin().train([0]).train([1], pause_s=0.5)
    told.say("checkpoint", step=2).train([2], pause_s=0.7)
    assert told.seconds() == approx(idle=1.0, start=6.0, step=2.7, data_wait=0.3, snapshot=0.5, checkpoint=0.7)


def test_what_lies_between_steps_is_a_validation_or_idle() -> None:
    told = Told().begin().train([0]).validate(1, 2.0).train([1])
    told.t += 0.4
    told.train([2])
    assert told.seconds() == approx(idle=1.4, start=6.0, step=2.7, data_wait=0.3, evaluate=2.0)


def test_a_fault_costs_detecting_forming_restoring_and_what_was_lost() -> None:
    told = Told().begin().train(range(10)).say("fault", 0.5, step=10).say("freed", 0.1)
    told.re_form(8).train(range(8, 12))
    assert told.seconds() == approx(
        idle=1.0, start=6.0, step=9.0, data_wait=0.8 + 0.4 + 0.25, lost=2.0, replay=1.8, detect=0.5,
        re_form=0.1 + 2.0 - 0.75, restore=0.5,
    )  # fmt: skip


def test_every_step_counts_once_for_goodput() -> None:
    """Ten steps, of which two were done twice: nine tenths of ten seconds, over all of them."""
    told = Told().begin().train(range(10)).say("fault").re_form(8).train(range(8, 10))
    assert told.spent().goodput == pytest.approx(9.0 / (7.0 + 12.0 + 2.0))


def test_steps_that_were_lost_twice_are_lost_twice() -> None:
    told = Told().begin().train(range(10)).say("fault").re_form(8).train(range(8, 10)).say("fault")
    told.re_form(8).train(range(8, 12))
    found = told.seconds()
    assert found["lost"] == pytest.approx(4.0)
    assert found["replay"] == pytest.approx(1.8)
    assert found["step"] == pytest.approx(9.0)


def test_waiting_for_a_node_to_come_back_is_idle() -> None:
    told = Told().begin().train(range(3)).say("fault").say("freed", 0.1).say("node_joined", 60.0).re_form(3)
    found = told.seconds()
    assert found["idle"] == pytest.approx(1.0 + 60.1)
    assert found["re-form"] == pytest.approx(2.0 - 0.75)


def test_a_resize_is_re_forming() -> None:
    told = Told().begin().train(range(3)).say("leaving").train([3]).say("left", 0.05, step=4).re_form(4, ranks=4)
    told.train(range(4, 6))
    found = told.seconds()
    assert "lost" not in found
    assert "replay" not in found
    assert found["re-form"] == pytest.approx(0.05 + 2.0 - 0.75)
    assert found["step"] == pytest.approx(0.9 * 6)


def test_a_journal_that_hears_late_of_the_first_step_moves_nothing() -> None:
    on_time, late = (Told().begin().train(range(5)) for _ in range(2))
    late.events[-1]["t"] += 1.5  # a step later
    assert late.spent() == on_time.spent()


def test_a_beginning_that_is_written_down_after_the_end_of_its_world_counts_when_it_was() -> None:
    """Its controller had died, and the next one sees the fault before it hears of the first step."""
    on_time, late = (Told().begin().train(range(5)).say("claimed").say("adopted").say("fault", 0.5) for _ in range(2))
    late.events.append({**late.events.pop(3), "generation": 2})
    for told in (on_time, late):
        told.re_form(5).train(range(5, 7))
    assert late.spent() == on_time.spent()


def test_a_beginning_that_is_written_down_when_the_next_world_has_been_started_is_of_its_own_world() -> None:
    """It died while its word was on its way; the next one takes longer."""
    on_time, late = (Told().begin().train(range(5)).say("fault", 0.5) for _ in range(2))
    late.events.pop(3)
    for told in (on_time, late):
        told.say("claimed").say("started", step=5, world_size=2)
    late.events.append({**on_time.events[3], "generation": 2, "world": 1})
    for told in (on_time, late):
        told.say("training", 9.0, step=5, seconds=SECONDS).train(range(5, 7))
    assert late.spent() == on_time.spent()
    assert late.spent([]).seconds["re-form"] == on_time.spent([]).seconds["re-form"]  # as long as no row tells


def test_a_beginning_is_never_before_its_world_whatever_the_clock_of_its_rank_says() -> None:
    on_time, early = (Told().begin().train(range(3)).say("left", 1.0) for _ in range(2))
    for told, forming_s in ((on_time, 0.0), (early, -0.5)):
        told.say("claimed").say("started", step=3, world_size=2).say("training", forming_s, step=3, seconds=SECONDS)
        told.t -= forming_s
        told.train(range(3, 5))
    assert early.spent() == on_time.spent()


def test_another_controller_changes_nothing() -> None:
    plain = Told().begin().train(range(10))
    adopted = Told().begin().train(range(4)).say("claimed").say("adopted").train(range(4, 10))
    assert adopted.spent() == plain.spent()


def test_a_run_whose_controller_was_lost_was_held_for_nothing() -> None:
    told = Told().begin().train(range(4))
    told.t += 300.0
    told.begin(2).train(range(2, 6))
    found = told.seconds()
    assert found["idle"] == pytest.approx(302.0)
    assert found["start"] == pytest.approx(12.0)
    assert found["lost"] == pytest.approx(2.0)


def test_a_stop_ends_with_a_checkpoint_and_costs_nothing_until_the_resume() -> None:
    told = Told().begin().train(range(4)).say("stopping").train([4]).say("stopped", 1.5)
    told.t += 5_000.0
    told.begin(5).train(range(5, 7)).validate(7, 2.0).say("done", 0.5)
    found = told.seconds()
    assert found["checkpoint"] == pytest.approx(2.0)
    assert found["evaluate"] == pytest.approx(2.0)
    assert sum(found.values()) == pytest.approx(7.0 + 5.0 + 1.5 + 7.0 + 4.5)


def test_a_step_counts_once_it_is_done() -> None:
    spent = Told().begin().train(range(4)).spent(after_s=0.6)
    assert (spent.seconds["step"], spent.seconds["idle"]) == pytest.approx((0.9 * 4, 1.0 + 0.6))


def test_seconds_of_ranks_are_weighed_by_the_world_that_was_there() -> None:
    told = Told().begin(ranks=4).train(range(4)).say("fault", 1.0).re_form(4, ranks=2).train(range(4, 6))
    spent = told.spent()
    assert spent.rank_seconds["idle"] == 0.0  # nobody waits before there are nodes
    assert spent.rank_seconds["start"] == pytest.approx(6.0 * 4)
    assert spent.rank_seconds["detect"] == pytest.approx(4.0)
    assert spent.rank_seconds["step"] == pytest.approx(0.9 * (4 * 4 + 2 * 2))
    assert spent.rank_goodput != spent.goodput


def test_nothing_is_told_before_there_is_a_step() -> None:
    assert label_time([], [], 500.0).goodput is None
    assert Told().begin().spent().goodput is None


def test_journals_of_earlier_versions_begin_to_train_when_they_start() -> None:
    told = Told().say("claimed").say("warming", 1.0).say("started", 3.0, world_size=2).train(range(5))
    told.say("restarting", 1.0).say("claimed").say("warming").say("started", 3.0, world_size=2).train(range(3, 6))
    found = told.seconds()
    assert found["lost"] == pytest.approx(2.0)
    assert found["step"] == pytest.approx(0.9 * 4)
    assert found["replay"] == pytest.approx(0.9 * 2)
    assert found["detect"] == pytest.approx(1.0)


def test_of_a_sample_of_rows_the_rest_is_taken_to_be_alike() -> None:
    """Many worlds, of most of which no row is in the sample."""
    told, at = Told().begin(), 0
    for _ in range(60):
        told.train(range(at, at + 90)).say("fault", 0.3, step=at + 90).re_form(at + 80)
        at += 80
    told.train(range(at, at + 100))
    sample = [row for place, row in enumerate(told.rows) if place // 30 % 7 == 0 or place >= len(told.rows) - 30]
    whole, guessed = told.spent(), told.spent(sample)
    assert guessed.goodput == pytest.approx(whole.goodput, rel=0.02)
    for label in ("lost", "re-form", "restore", "data wait"):
        assert guessed.seconds[label] == pytest.approx(whole.seconds[label], rel=0.1)
    assert sum(guessed.seconds.values()) == pytest.approx(sum(whole.seconds.values()))


STEPS_OF_A_LIFE = st.lists(
    st.one_of(
        st.tuples(st.just("train"), st.integers(1, 5)),
        st.tuples(st.just("evaluate"), st.integers(1, 3_000)),
        st.tuples(st.just("fault"), st.integers(0, 4)),
        st.tuples(st.just("left"), st.just(0)),
        st.tuples(st.just("adopted"), st.just(0)),
        st.tuples(st.just("stopped"), st.integers(0, 4)),
        st.tuples(st.just("lost"), st.integers(0, 4)),
        st.tuples(st.just("joined"), st.just(0)),
    ),
    max_size=20,
)


def held_micros(events: list[dict[str, Any]], until: float) -> int:
    """From each claim to the end, the next claim, or now."""
    held, since = 0, None
    for event in [*events, {"event": "now", "t": until}]:
        if event["event"] in ("claimed", "stopped", "now"):
            t = round(event["t"] * 1e6)
            held += t - since if since is not None else 0
            since = t if event["event"] == "claimed" else None
    return held


@given(STEPS_OF_A_LIFE, st.randoms(use_true_random=False))
def test_labels_add_up_to_the_time_held_to_the_last_microsecond(
    life: list[tuple[str, int]], draws: random.Random
) -> None:
    told = Told(draws.uniform(1e9, 2e9)).begin(ranks=draws.randint(1, 9))
    step = 0
    for what, number in life:
        told.t += draws.uniform(0.0, 3.0)
        match what:
            case "train":
                waits = {"wait_s": draws.uniform(0.0, 2.0), "pause_s": draws.uniform(0.0, 1.0)}
                told.train(range(step, step + number), draws.uniform(0.0, 2.0), **waits)
                step += number
            case "evaluate":
                told.validate(step, number / 1e3)
            case "fault" | "left" | "stopped" | "lost":
                step = max(0, step - number)
                told.say(what) if what != "lost" else None
                told.t += draws.uniform(0.0, 3.0)
                told.begin(step) if what in ("stopped", "lost") else told.re_form(step, forming_s=draws.uniform(0, 2))
            case "adopted":
                told.say("claimed").say("adopted")
            case "joined":
                told.say("node_joined")
    until = told.t + draws.uniform(0.0, 5.0)
    rows = [row for row in told.rows if draws.random() < 0.8] if draws.random() < 0.3 else told.rows
    spent = label_time(told.events, rows, until)
    assert set(spent.seconds) == set(LABELS)
    assert min(spent.seconds.values()) >= 0.0
    assert sum(round(seconds * 1e6) for seconds in spent.seconds.values()) == held_micros(told.events, until)
