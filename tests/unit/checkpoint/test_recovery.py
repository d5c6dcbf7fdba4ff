"""Which snapshot is chosen, of what the vaults that are left still hold."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.checkpoint.part import PartPlace
from orchestrator.checkpoint.recovery import Choice, Held, choose_snapshot


def held(generation: int, step: int, rank: int, *, size: int = 2, own: bool = True) -> Held:
    place = PartPlace(generation, step, size, rank)
    return Held(place, f"/{'own' if own else 'mirror'}/{generation}-{step}-{rank}", own)


def where(choice: Choice | None) -> list[tuple[int, str]]:
    """The copies that come first."""
    assert choice is not None
    return [(copies[0].vault, copies[0].held.path) for copies in choice.parts]


def test_the_newest_that_is_there_for_every_rank_is_taken() -> None:
    choice = choose_snapshot([[held(1, 5, 0), held(1, 6, 0)], [held(1, 5, 1)]])
    assert choice is not None
    assert (choice.generation, choice.step) == (1, 5)
    assert where(choice) == [(0, "/own/1-5-0"), (1, "/own/1-5-1")]


def test_a_part_is_taken_from_the_buddy_when_its_node_is_gone() -> None:
    choice = choose_snapshot([[held(1, 6, 1), held(1, 6, 0, own=False)]])
    assert where(choice) == [(0, "/mirror/1-6-0"), (0, "/own/1-6-1")]


def test_own_copies_come_before_mirrored_ones() -> None:
    first, second = [held(1, 6, 0), held(1, 6, 1, own=False)], [held(1, 6, 1), held(1, 6, 0, own=False)]
    assert where(choose_snapshot([first, second])) == [(0, "/own/1-6-0"), (1, "/own/1-6-1")]
    assert where(choose_snapshot([second, first])) == [(1, "/own/1-6-0"), (0, "/own/1-6-1")]
    choice = choose_snapshot([first, second])
    assert choice is not None
    assert [[found.vault for found in copies] for copies in choice.parts] == [[0, 1], [1, 0]]


def test_a_later_generation_is_newer_although_it_is_at_an_earlier_step() -> None:
    choice = choose_snapshot([[held(1, 9, 0, size=1), held(2, 4, 0, size=1)]])
    assert choice is not None
    assert (choice.generation, choice.step) == (2, 4)


def test_parts_of_two_generations_are_never_put_together() -> None:
    assert choose_snapshot([[held(1, 6, 0), held(2, 6, 1)]]) is None


def test_node_and_buddy_lost_together_leave_nothing() -> None:
    # three nodes of a rank each, in a ring; the first two are gone
    assert choose_snapshot([[held(1, 6, 2, size=3), held(1, 6, 1, size=3, own=False)]]) is None
    assert choose_snapshot([]) is None


@given(st.data())
def test_with_one_node_less_nothing_that_was_kept_everywhere_is_lost(data: st.DataObject) -> None:
    """A ring of nodes that all keep one snapshot, some of them a newer one."""
    nodes, per_node = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 3))
    size = nodes * per_node
    newer = {rank: data.draw(st.sampled_from(["", "own", "mirrored"])) for rank in range(size)}
    inventories: list[list[Held]] = [[] for _ in range(nodes)]
    for rank in range(size):
        home, buddy = inventories[rank // per_node], inventories[(rank // per_node + 1) % nodes]
        home.append(held(3, 10, rank, size=size))
        buddy.append(held(3, 10, rank, size=size, own=False))
        home += [held(3, 11, rank, size=size)] if newer[rank] else []
        buddy += [held(3, 11, rank, size=size, own=False)] if newer[rank] == "mirrored" else []
    lost = data.draw(st.integers(0, nodes))  # the last means: none
    choice = choose_snapshot([inventory for node, inventory in enumerate(inventories) if node != lost])
    survives = all(
        copies == "mirrored" or (copies == "own" and rank // per_node != lost) for rank, copies in newer.items()
    )
    assert choice is not None
    assert choice.step == (11 if survives else 10)
    assert [{found.held.place.rank for found in copies} for copies in choice.parts] == [{rank} for rank in range(size)]
