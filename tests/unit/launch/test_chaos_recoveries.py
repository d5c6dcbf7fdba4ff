"""What a fault has cost, read from made-up journals and rows."""

from typing import Any

import pytest

from launch.chaos.faults import Fault, parse_faults
from launch.chaos.recoveries import Recovery, measure
from launch.chaos.strike import Struck

SECONDS = {"join": 0.05, "build": 0.1, "restore": 0.04, "read": 0.01}


class Told:
    """A run of one step every 0.1 s from t=10 on, and what its journal says."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = [{"format": 1}]
        self.generation = 1

    def say(self, t: float, event: str, **fields: Any) -> "Told":
        self.generation += event == "claimed"
        self.events.append({"t": t, "event": event, "generation": self.generation - 1, **fields})
        return self

    def begin(self, t: float, step: int) -> "Told":
        self.say(t, "claimed").say(t + 0.01, "started", step=step, world_size=2)
        return self.say(t + 0.25, "training", step=step, seconds=SECONDS)

    def train(self, steps: range, t: float, step_s: float = 0.1, **fields: Any) -> "Told":
        for number, step in enumerate(steps, start=1):
            row = {"step": step, "generation": self.generation - 1, "step_s": step_s, "t": t + number * step_s}
            self.rows.append(row | fields)
        return self

    def measure(
        self, struck: str = "", *, t: float = 0.0, step: int = 0, own: str = "", late_s: float = 0.0
    ) -> list[Recovery]:
        faults = [Struck(fault=fault, due=t - late_s, t=t, sent=t + 0.01, step=step) for fault in parse(struck)]
        return measure(faults, parse(own), self.events, self.rows)


def parse(text: str) -> list[Fault]:
    return parse_faults(text) if text else []


def killed() -> Told:
    """Killed at 11.05, after ten steps; the new world begins at step 9 and does it again."""
    told = Told().begin(9.75, 0).train(range(10), 10.0)
    told.say(11.07, "fault", kind="rank").say(11.12, "freed").begin(11.13, 9)
    return told.train(range(9, 20), 11.38)


def test_a_recovery_ends_when_the_first_new_step_begins() -> None:
    [found] = killed().measure("kill rank 1 @ 10", t=11.05, step=10)
    assert found.recovery_s == pytest.approx(11.38 - 11.05)
    assert found.steps_replayed == 1


def test_snapshots_that_were_left_out_are_counted_from_the_one_that_was_gone_on_from() -> None:
    told = Told().begin(9.75, 0).train(range(4), 10.0, snapshots_skipped=1)
    told.train(range(4, 8), 10.4, snapshots_skipped=3).train(range(8, 10), 10.8, snapshots_skipped=4)
    told.say(11.07, "fault", kind="rank").say(11.12, "freed").begin(11.13, 4).train(range(4, 20), 11.38)
    [found] = told.measure("kill rank 1 @ 10", t=11.05, step=10)
    assert (found.steps_replayed, found.left_out) == (6, 1)
    [found] = killed().measure("kill rank 1 @ 10", t=11.05, step=10)
    assert found.left_out == 0


def test_labels_say_where_the_time_went_and_add_up_to_it() -> None:
    [found] = killed().measure("kill rank 1 @ 10", t=11.05, step=10)
    assert found.labels == pytest.approx(
        {"detect": 0.02, "abort": 0.05, "re-form": 0.21, "restore": 0.05, "replay": 0.1}
    )
    assert sum(found.labels.values()) - found.labels["replay"] == pytest.approx(found.recovery_s)


def test_a_world_that_never_trains_again_has_not_recovered() -> None:
    told = Told().begin(9.75, 0).train(range(10), 10.0).say(11.07, "fault").say(11.1, "freed")
    [found] = told.measure("kill rank 1 @ 10", t=11.05, step=10)
    assert found.recovery_s is None


def test_a_run_that_stands_still_has_not_recovered() -> None:
    [found] = Told().begin(9.75, 0).train(range(11), 10.0).measure("stop rank 1 @ 10", t=11.05, step=10)
    assert found.recovery_s is None


def test_what_was_not_at_work_costs_nothing_whatever_comes_later() -> None:
    told = Told().begin(9.75, 0).train(range(30), 10.0).say(13.0, "fault").say(13.1, "freed").begin(13.2, 29)
    [found] = told.measure("kill node 2 @ 10", t=11.05, step=10)
    assert (found.recovery_s, found.labels) == (0.0, {})


def test_the_first_row_knows_better_than_the_journal_when_a_world_began() -> None:
    told = Told().begin(9.75, 0).train(range(10), 10.0).say(11.07, "fault").say(11.12, "freed")
    told.begin(11.13, 9).train(range(9, 20), 11.3)
    [found] = told.measure("kill rank 1 @ 10", t=11.05, step=10)
    assert found.recovery_s == pytest.approx(11.3 - 11.05)


def test_a_fault_during_a_recovery_is_over_with_the_same_new_step() -> None:
    told = Told().begin(9.75, 0).train(range(10), 10.0)
    told.say(11.07, "fault").say(11.12, "freed").say(11.13, "claimed").say(11.14, "started", step=9, world_size=2)
    told.say(11.25, "fault").say(11.30, "freed").begin(11.31, 9)
    [first] = told.measure("kill rank 1 @ 10", t=11.05, step=10)
    [second] = told.measure("kill rank 0 @ 10", t=11.2, step=10)
    assert first.recovery_s == pytest.approx(11.56 - 11.05)
    assert second.recovery_s == pytest.approx(11.56 - 11.2)


def test_the_recovery_of_an_earlier_fault_is_not_taken_for_that_of_a_later_one() -> None:
    told = killed().say(13.0, "fault").say(13.1, "freed").begin(13.2, 19)
    [found] = told.measure("kill rank 1 @ 16", t=12.95, step=16)
    assert found.recovery_s == pytest.approx(13.45 - 12.95)


def test_a_killed_controller_costs_nothing_when_no_world_is_given_up() -> None:
    told = Told().begin(9.75, 0).train(range(60), 10.0).say(13.0, "claimed").say(13.0, "adopted")
    [found] = told.measure("kill controller @ 20", t=12.05, step=20)
    assert (found.recovery_s, found.steps_replayed, found.labels) == (0.0, 0, {})
    assert found.slowest == pytest.approx(1.0)


def test_a_step_that_waited_for_the_controller_shows() -> None:
    told = Told().begin(9.75, 0).train(range(20), 10.0).train(range(20, 21), 12.0, step_s=0.4)
    told.train(range(21, 60), 12.4)
    [found] = told.measure("kill scribe @ 20", t=12.05, step=20)
    assert found.slowest == pytest.approx(4.0)


def test_a_killed_controller_that_costs_a_world_has_held_up_training() -> None:
    told = Told().begin(9.75, 0).train(range(20), 10.0).say(12.1, "fault").begin(13.0, 19).train(range(19, 40), 13.25)
    [found] = told.measure("kill controller @ 20", t=12.05, step=20)
    assert found.recovery_s is None


def test_a_world_given_up_for_another_fault_is_not_the_controllers() -> None:
    told = killed()
    faults = [*parse("kill rank 1 @ 10"), *parse("kill controller @ 10")]
    struck = [Struck(fault=fault, due=11.04, t=11.04, sent=11.05, step=10) for fault in faults]
    rank, controller = measure(struck, [], told.events, told.rows)
    assert rank.recovery_s == pytest.approx(11.38 - 11.04)
    assert controller.recovery_s == 0.0


def test_a_world_broken_by_an_earlier_fault_that_is_over_is_the_controllers() -> None:
    told = killed().say(12.5, "fault").say(12.6, "freed").begin(12.7, 19).train(range(19, 30), 12.95)
    [rank], [scribe] = parse("kill rank 1 @ 10"), parse("kill scribe @ 18")
    struck = [
        Struck(fault=rank, due=11.05, t=11.05, sent=11.06, step=10),
        Struck(fault=scribe, due=12.45, t=12.45, sent=12.46, step=18),
    ]
    assert [one.recovery_s is None for one in measure(struck, [], told.events, told.rows)] == [False, True]


def test_a_controller_killed_during_a_recovery_is_not_blamed_for_its_second_attempt() -> None:
    told = Told().begin(9.75, 0).train(range(10), 10.0)
    told.say(11.07, "fault").say(11.12, "freed").say(11.13, "claimed").say(11.14, "started", step=9, world_size=2)
    told.say(11.25, "fault").say(11.30, "freed").begin(11.31, 9).train(range(9, 20), 11.56)
    [found] = told.measure("kill controller @ 10", t=11.2, step=10)
    assert found.recovery_s == 0.0


def test_a_rank_struck_while_it_is_free_is_replaced_with_the_recovery_under_way() -> None:
    [found] = killed().measure("kill rank 0 @ 10", t=11.1, step=10)
    assert found.recovery_s == pytest.approx(11.38 - 11.1)
    assert found.labels == pytest.approx({"re-form": 0.23, "restore": 0.05})


def test_what_a_new_controller_writes_down_late_is_told_in_its_time() -> None:
    told = killed()
    training = told.events.pop()
    told.say(12.0, "claimed").say(12.01, "adopted").events.append(training)
    told.say(13.0, "fault").say(13.1, "freed").begin(13.2, 19).train(range(19, 30), 13.45)
    [found] = told.measure("kill rank 1 @ 10", t=11.05, step=10)
    assert (found.recovery_s, found.steps_replayed) == (pytest.approx(11.38 - 11.05), 1)


def test_how_late_a_fault_was_seen_to_be_due_is_counted_from_its_step() -> None:
    [found] = killed().measure("kill rank 1 @ 5", t=11.05, step=10, late_s=0.2)
    assert found.late_s == pytest.approx(0.35)


def test_an_added_node_costs_what_lies_between_the_steps_of_two_worlds() -> None:
    told = Told().begin(9.75, 0).train(range(50), 10.0).say(14.9, "node_joined").say(15.0, "leaving")
    told.say(15.03, "left", step=50)
    told.begin(15.05, 50).train(range(50, 60), 15.3)
    [found] = told.measure("add node @ 20", t=12.0, step=20)
    assert found.recovery_s == pytest.approx(0.3)
    assert found.steps_replayed == 0
    assert sum(found.labels.values()) == pytest.approx(0.3)


def test_an_added_node_that_the_run_ended_before_has_shown_nothing() -> None:
    [found] = Told().begin(9.75, 0).train(range(50), 10.0).measure("add node @ 20", t=12.0, step=20)
    assert found.recovery_s is None


def test_a_node_that_is_added_as_a_spare_costs_nothing() -> None:
    told = Told().begin(9.75, 0).train(range(50), 10.0).say(13.0, "node_joined")
    [found] = told.measure("add node @ 20", t=12.0, step=20)
    assert (found.recovery_s, found.labels) == (0.0, {})


def test_a_short_cut_holds_up_a_step_and_no_more() -> None:
    told = Told().begin(9.75, 0).train(range(20), 10.0).train(range(20, 21), 12.0, step_s=1.0)
    told.train(range(21, 60), 13.0)
    [found] = told.measure("cut node 1 @ 20 for 1s", t=12.05, step=20)
    assert found.recovery_s == 0.0
    assert found.slowest == pytest.approx(10.0)


def test_what_ranks_do_to_themselves_is_timed_by_the_journal() -> None:
    told = Told().begin(9.75, 0).train(range(60), 10.0).say(14.0, "not_finite", step=40).say(14.0, "voided", step=40)
    [found] = told.measure(own="nan @ 40")
    assert (found.t, found.step, found.recovery_s) == (14.0, 40, 0.0)


def test_a_spike_goes_back_to_before_it() -> None:
    told = Told().begin(9.75, 0).train(range(60), 10.0).say(16.05, "loss_spike", step=59).say(16.1, "left", step=60)
    told.begin(16.12, 55).train(range(55, 70), 16.37)
    [found] = told.measure(own="spike @ 59")
    assert found.recovery_s == pytest.approx(16.37 - 16.05)
    assert found.steps_replayed == 5


@pytest.mark.parametrize(("own", "trouble"), [("nan @ 10", "not_finite"), ("spike @ 10", "loss_spike")])
def test_a_number_that_ends_the_run_was_struck_and_not_recovered_from(own: str, trouble: str) -> None:
    told = Told().begin(9.75, 0).train(range(10), 10.0).say(11.05, trouble, step=10).say(11.1, "failed")
    [found] = told.measure(own=own)
    assert (found.t, found.recovery_s) == (11.05, None)


def test_a_number_that_went_wrong_in_the_last_step_was_no_harm_to_a_run_that_is_done() -> None:
    told = Told().begin(9.75, 0).train(range(11), 10.0).say(11.05, "not_finite", step=10).say(11.2, "done")
    [found] = told.measure(own="nan @ 10")
    assert found.recovery_s == 0.0


def test_a_number_that_never_went_wrong_is_not_told_of() -> None:
    assert Told().begin(9.75, 0).train(range(10), 10.0).measure(own="nan @ 40") == []
