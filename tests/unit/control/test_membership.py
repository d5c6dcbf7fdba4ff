"""Which nodes are of the next world, and who sits where."""

import pytest

from orchestrator.control.blame import BadNode
from orchestrator.control.membership import choose_seats, find_shunned, place
from orchestrator.control.seen import Limits
from tests.fakes.seen_nodes import READY, died, freed, node

LIMITS = Limits(min_nodes=1, max_nodes=2, ranks_per_node=2)
BAD = BadNode("host-b", 100.0, ("it died",))


@pytest.mark.parametrize(
    ("able", "before", "world"),
    [
        (["a", "b"], [], ("a", "b")),
        (["c", "a", "b"], ["b", "a"], ("b", "a", "c")),
        (["a", "c", "d"], ["a", "b", "c"], ("a", "d", "c")),
        (["a", "c"], ["a", "b", "c"], ("a", "c")),
    ],
)
def test_nodes_keep_their_places_and_others_fill_the_gaps(
    able: list[str], before: list[str], world: tuple[str, ...]
) -> None:
    assert place(able, before) == world


def test_survivors_keep_their_seats_and_spares_take_the_others() -> None:
    report = node("a", died(0), freed(1), READY).report
    assert report is not None
    assert choose_seats(report.ranks, 2) == [READY, freed(1)]


def test_bad_hosts_are_shunned_only_while_enough_good_nodes_are_there() -> None:
    assert find_shunned([node("a")], [BAD], LIMITS) == {"host-b"}
    assert find_shunned([node("b")], [BAD], LIMITS) == set()
    assert find_shunned([node("a", lost="silent")], [BAD], LIMITS) == set()
