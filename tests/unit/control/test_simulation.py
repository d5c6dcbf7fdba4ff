"""The real policy in charge of a cluster on paper: every fault is recovered from, in the time that things take."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.simulated.cluster import FaultKind, FaultToCome, SimulatedCluster, Times
from benchmarks.simulated.simulation import LOOK_S, Saving, Simulation, Told, draw_faults
from orchestrator.control.seen import Limits

NODES = 64
LIMITS = Limits(min_nodes=60, max_nodes=NODES, ranks_per_node=2)
TIMES = Times(step_s=2.0, repair_s=1800.0)
EVERY_STEP = Saving(name="every step", every_steps=1, pause_s=0.0)
EVERY_50 = Saving(name="every 50", every_steps=50, pause_s=0.0, restore_s=40.0)
DAY_S = 86400.0
LOOKS_S = 6 * LOOK_S  # that a fault's phases take to follow each other


def simulate(faults: Sequence[FaultToCome], until: float, spares: int = 0, **changes: Any) -> Told:
    limits = replace(LIMITS, spare_nodes=spares, **changes)
    cluster = SimulatedCluster(NODES + spares, limits, TIMES)
    return Simulation(cluster, limits, TIMES, [EVERY_STEP, EVERY_50]).run(faults, until)


def longest_pause_s(kind: FaultKind) -> float:
    notice_s = TIMES.notice_node_s if kind == "node" else TIMES.notice_rank_s
    return notice_s + TIMES.free_s + TIMES.seek_s + TIMES.start_s + LOOKS_S


def test_without_faults_a_world_trains_from_the_moment_it_has_begun() -> None:
    told = simulate([], DAY_S)
    [start_s] = told.pauses_s.pop("start")
    assert told.pauses_s == {}
    assert TIMES.warm_s + TIMES.seek_s + TIMES.start_s <= start_s < TIMES.warm_s + TIMES.seek_s + TIMES.start_s + 1.0
    assert told.trained_s == pytest.approx(DAY_S - start_s)
    assert [account.done * TIMES.step_s for account in told.accounts] == pytest.approx([told.trained_s] * 2)
    assert told.goodput(told.accounts[0], TIMES.step_s) == pytest.approx(told.trained_s / DAY_S)


@pytest.mark.parametrize("kind", ["rank", "node"])
def test_a_fault_costs_its_pause_and_at_most_what_was_not_saved(kind: FaultKind) -> None:
    well, ill = simulate([], 7200.0), simulate([FaultToCome(3600.0, kind, 0.3)], 7200.0, spares=1)
    [pause] = ill.pauses_s.pop("fault")
    assert ill.pauses_s == {"start": well.pauses_s["start"]}  # the spare node has come in with the same world
    assert longest_pause_s(kind) - LOOKS_S <= pause <= longest_pause_s(kind)
    assert well.trained_s - ill.trained_s == pytest.approx(pause)
    assert ill.full_s == pytest.approx(ill.trained_s)
    every_step, every_50 = ill.accounts
    assert 0.0 <= every_step.lost < 1.0
    assert 1.0 < every_50.lost < 50.0
    for account, restored_s in ((every_step, 0.0), (every_50, EVERY_50.restore_s)):
        assert (account.done + account.lost) * TIMES.step_s + restored_s == pytest.approx(ill.trained_s)


def test_a_node_that_goes_with_notice_costs_two_short_pauses_and_nothing_twice() -> None:
    told = simulate([FaultToCome(3600.0, "notice", 0.3)], 7200.0)
    assert set(told.pauses_s) == {"start", "resize"}
    assert len(told.pauses_s["resize"]) == 2  # it goes, and comes back
    assert all(pause <= TIMES.seek_s + TIMES.start_s + LOOKS_S for pause in told.pauses_s["resize"])
    assert [account.lost for account in told.accounts] == [0.0, 0.0]
    missing_s = (told.trained_s - told.full_s) * NODES
    assert missing_s == pytest.approx(TIMES.repair_s + TIMES.warm_s, rel=0.05)


def test_a_second_fault_while_the_world_is_being_formed_is_another_round_not_another_loss() -> None:
    faults = [FaultToCome(3600.0, "node", 0.3), FaultToCome(3610.0, "node", 0.6)]
    told = simulate(faults, 7200.0, spares=2)
    [pause] = told.pauses_s["fault"]
    assert pause <= 10.0 + longest_pause_s("node")
    assert told.accounts[0].lost < 1.0


@pytest.mark.parametrize("seed", range(2))
def test_every_fault_of_many_days_is_recovered_from(seed: int) -> None:
    rates: dict[FaultKind, float] = {"rank": 20.0, "node": 20.0, "notice": 10.0}
    faults = list(draw_faults(rates, 3 * DAY_S, seed))
    told = simulate(faults, 3 * DAY_S, spares=2)
    assert len(faults) > 30
    kinds = [fault.kind for fault in faults]
    faulty = len(faults) - kinds.count("notice")
    assert len(told.pauses_s["fault"]) <= faulty  # spare nodes break, too, and faults come together
    paused_s = sum(map(sum, told.pauses_s.values()))
    rounds = 1 + faulty, len(told.pauses_s["resize"])
    assert paused_s <= TIMES.warm_s + rounds[0] * longest_pause_s("node") + rounds[1] * longest_pause_s("rank")
    assert told.trained_s + paused_s > 3 * DAY_S - longest_pause_s("node")  # the last one may not be over
    assert told.accounts[0].lost < faulty
    assert told.accounts[1].lost < 50 * faulty
    assert told.full_s / told.trained_s > 0.99


def test_spare_nodes_fill_the_gaps_that_broken_ones_leave() -> None:
    faults = [FaultToCome(3600.0 + 100 * number, "node", 0.1 * number) for number in range(4)]
    shares = [(told := simulate(faults, 7200.0, spares=spares)).full_s / told.trained_s for spares in (0, 2, 4)]
    assert shares == sorted(shares)
    assert (shares[0] < 0.99, shares[2] > 0.9999) == (True, True)


def test_how_many_ranks_a_node_has_changes_nothing() -> None:
    faults = list(draw_faults({"rank": 5.0, "node": 5.0, "notice": 5.0}, DAY_S, 7))
    few, many = [simulate(faults, DAY_S, spares=1, ranks_per_node=ranks) for ranks in (1, 8)]
    assert few.accounts == many.accounts
    assert few.pauses_s == many.pauses_s
