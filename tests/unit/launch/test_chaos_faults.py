"""What can be asked of chaos: parsed, refused with what is wrong, drawn the same way from the same seed."""

from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.chaos.draw import draw_faults
from launch.chaos.faults import NUMBERED, Fault, Kind, parse_faults, say_faults
from launch.chaos.possible import Nodes, check_possible, needs_hosts
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import BadInput
from tests.fakes.small_runs import small_config


def config(low: int = 1, high: int = 1, ranks: int = 2, address: str = "local", **sections: Any) -> RunConfig:
    cluster = {"nodes": {"min": low, "max": high}, "ranks_per_node": ranks, "address": address}
    return small_config(**{"cluster": cluster, "train": {"steps": 100}, **sections})


def refusal(text: str, of: RunConfig) -> str:
    with pytest.raises(BadInput) as refused:
        check_possible(parse_faults(text), of)
    return str(refused.value)


FAULTS = st.builds(
    lambda kind, number, step, lasts: Fault(
        kind=kind,
        number=number if kind in NUMBERED else None,
        step=step,
        lasts_s=lasts if kind is Kind.CUT_NODE else None,
    ),
    st.sampled_from(Kind),
    st.integers(0, 10_000),
    st.integers(0, 10**9),
    st.integers(1, 1_000).map(lambda tenths: tenths / 10),
)


@given(st.lists(FAULTS, min_size=1))
def test_faults_are_read_as_they_are_said(faults: list[Fault]) -> None:
    assert parse_faults(say_faults(faults)) == sorted(faults, key=lambda fault: fault.step or 0)


@given(st.text(alphabet="kilrancutode 0123456789@;fors.-", max_size=40))
def test_whatever_is_asked_it_is_understood_or_refused(text: str) -> None:
    try:
        faults = parse_faults(text)
    except BadInput:
        return
    assert parse_faults(say_faults(faults)) == faults


def test_words_may_be_spaced_and_written_as_people_do() -> None:
    [kill, cut] = parse_faults(" Cut  node 1@60 for 2.5 s ;kill rank 3 @ 20;")
    assert kill == Fault(kind=Kind.KILL_RANK, number=3, step=20)
    assert cut == Fault(kind=Kind.CUT_NODE, number=1, step=60, lasts_s=2.5)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "names no fault"),
        ("kill rank 1", "WHAT @ STEP"),
        ("kil rank 1 @ 3", "did you mean"),
        ("kill rank @ 3", "needs a number"),
        ("kill scribe 1 @ 3", "takes no number"),
        ("cut node 1 @ 3", "needs `for SECONDSs`"),
        ("kill rank 1 @ 3 for 2s", "takes no `for`"),
    ],
)
def test_what_is_not_understood_is_named_with_what_is(text: str, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        parse_faults(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kill rank 2 @ 5", "ranks 0 to 1"),
        ("kill rank 1 @ 0", "from 1 on"),
        ("kill rank 1 @ 100", "the run has 100 steps"),
        ("kill node 1 @ 5", "nodes 0 to 0"),
        ("kill node 0 @ 5", "leaves 0 of cluster.nodes.min=1"),
        ("add node @ 5", "to begin with"),
        ("spike @ 60", "elastic.spike.action=void"),
    ],
)
def test_what_a_run_cannot_have_is_refused_before_it_begins(text: str, told: str) -> None:
    assert told in refusal(text, config())


def test_a_spike_must_come_when_it_can_be_told_from_what_is_usual() -> None:
    watched = config(elastic={"spike": {"action": "void", "steps": 50}})
    assert "after elastic.spike.steps=50" in refusal("spike @ 50", watched)
    check_possible(parse_faults("spike @ 51"), watched)


def test_a_node_that_is_gone_cannot_be_broken_until_one_is_added() -> None:
    told = refusal("kill node 2 @ 5; cut node 2 @ 9 for 1s", config(1, 3))
    assert "gone by then" in told
    check_possible(parse_faults("kill node 2 @ 5; add node @ 7; cut node 2 @ 9 for 1s"), config(1, 3))


def test_all_problems_are_told_together() -> None:
    told = refusal("kill rank 7 @ 5; kill rank 1 @ 500", config())
    assert "ranks 0 to 1" in told
    assert "100 steps" in told


def test_nodes_that_come_before_one_has_gone_are_kept_back() -> None:
    both = parse_faults("kill node 2 @ 5; add node @ 7; add node @ 9")
    assert Nodes.of(config(1, 3), both) == Nodes(least=1, at_start=2, most=3)


def test_several_nodes_or_faults_of_nodes_need_hosts() -> None:
    rank = parse_faults("kill rank 1 @ 5")
    assert not needs_hosts(config(), rank)
    assert needs_hosts(config(1, 2), rank)
    assert needs_hosts(config(), parse_faults("cut node 0 @ 5 for 1s"))


def test_a_seed_draws_the_same_faults_again_and_another_one_others() -> None:
    first, again, other = (list(islice(draw_faults(config(1, 3), seed, 30.0, None), 50)) for seed in (7, 7, 8))
    assert first == again
    assert first != other
    assert 20 < sum(fault.gap_s or 0.0 for fault in first) / 50 < 45


def test_count_bounds_what_is_drawn() -> None:
    assert len(list(draw_faults(config(), 7, 30.0, 4))) == 4


@given(st.integers(0, 10_000))
def test_what_is_drawn_leaves_the_nodes_that_a_run_needs(seed: int) -> None:
    there = set(range(3))
    for fault in islice(draw_faults(config(2, 3), seed, 30.0, None), 60):
        if fault.kind in (Kind.KILL_NODE, Kind.CUT_NODE):
            assert fault.number in there
        if fault.kind is Kind.KILL_NODE:
            there.discard(fault.number or 0)
        if fault.kind is Kind.ADD_NODE:
            there.add(min(set(range(3)) - there))
        assert len(there) >= 2


def test_one_node_is_not_killed_by_chance() -> None:
    kinds = {fault.kind for fault in draw_faults(config(), 3, 30.0, 200)}
    assert kinds == {Kind.KILL_RANK, Kind.STOP_RANK, Kind.KILL_CONTROLLER, Kind.KILL_SCRIBE}


def test_nodes_of_a_cluster_that_is_there_already_are_left_alone() -> None:
    there = config(1, 3, address="10.0.0.1:6379")
    check_possible(parse_faults("kill rank 5 @ 20; kill scribe @ 30"), there)
    assert not needs_hosts(there, [])
    assert "kill node 1 @ 20: nodes of 10.0.0.1:6379 are left alone" in refusal("kill node 1 @ 20", there)
    kinds = {fault.kind for fault in draw_faults(there, 3, 30.0, 200)}
    assert kinds == {Kind.KILL_RANK, Kind.STOP_RANK, Kind.KILL_CONTROLLER, Kind.KILL_SCRIBE}
