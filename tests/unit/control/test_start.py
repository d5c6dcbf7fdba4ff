"""What a world goes on from: memory before disk, and never what a later world has gone back behind."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.checkpoint.shelf import LocalShelf
from orchestrator.control.bell import Bell
from orchestrator.control.start import Bound, Start, StartSearch
from tests.fakes.saving import save_all, small_model, split
from tests.fakes.vault_nodes import Cluster, cluster_of

BELL = Bell()


def save(folder: Path, step: int, generation: int) -> str:
    save_all(folder, split(small_model(), 2, random.Random(0)), step, generation)
    return f"step-{step:08d}-g{generation:04d}"


def find(search: StartSearch, cluster: Cluster | None = None, bounds: Sequence[Bound] = ()) -> Start:
    version = BELL.version
    search.begin([node.address for node in cluster.nodes] if cluster is not None else [], bounds)
    BELL.wait(version, 10.0)
    step = search.found_step
    start = search.take()
    assert (step, search.found_step) == (start.step, None)
    return start


def search_on(folder: Path, told: int = 100) -> StartSearch:
    return StartSearch(LocalShelf(folder), lambda: told, lambda: 0.01, BELL)


def test_without_anything_to_go_on_from_it_is_step_0(tmp_path: Path) -> None:
    start = find(search_on(tmp_path))
    assert (start.address, start.step, start.snapshot, start.checkpoint) == (None, 0, None, None)


def test_a_snapshot_is_taken_before_a_checkpoint_until_it_proves_damaged(tmp_path: Path) -> None:
    name = save(tmp_path / "checkpoints", 4, 1)
    search = search_on(tmp_path / "checkpoints")
    with cluster_of(tmp_path, nodes=1) as cluster:
        cluster.begin(1)
        cluster.take(5, slot=0)
        start = find(search, cluster)
        assert (start.step, start.snapshot, start.checkpoint) == (5, 5, None)
        search.distrust(start)
        start = find(search, cluster)
        assert (start.step, start.snapshot, start.checkpoint) == (4, None, name)


@pytest.mark.parametrize(
    ("bounds", "step"),
    [
        ([], 8),
        ([Bound(1, 6)], 8),  # of another generation
        ([Bound(2, 6)], 6),
        ([Bound(2, 8)], 8),
        ([Bound(1, 8), Bound(2, 5)], 0),
    ],
)
def test_what_lies_beyond_where_a_later_world_began_is_of_no_use(
    tmp_path: Path, bounds: list[Bound], step: int
) -> None:
    save(tmp_path, 6, 2)
    save(tmp_path, 8, 2)
    assert find(search_on(tmp_path), bounds=bounds).step == step


def test_snapshots_in_memory_are_bounded_too(tmp_path: Path) -> None:
    with cluster_of(tmp_path, nodes=1) as cluster:
        cluster.begin(2)
        cluster.take(5, slot=0)
        cluster.take(6, slot=1)
        search = search_on(tmp_path / "checkpoints")
        assert find(search, cluster).step == 6
        assert find(search, cluster, [Bound(2, 5)]).step == 5
        assert find(search, cluster, [Bound(2, 4)]).address is None


def test_a_snapshot_counts_only_as_far_as_the_ledger_is_on_disk(tmp_path: Path) -> None:
    """Rows of later steps were lost with the node that was to send them; no checkpoint is ahead of its rows."""
    with cluster_of(tmp_path, nodes=1) as cluster:
        cluster.begin(2)
        cluster.take(5, slot=0)
        cluster.take(6, slot=1)
        assert find(search_on(tmp_path / "checkpoints", told=6), cluster).step == 6
        assert find(search_on(tmp_path / "checkpoints", told=5), cluster).step == 5
        assert find(search_on(tmp_path / "checkpoints", told=4), cluster).address is None


def test_rows_that_are_on_their_way_are_waited_for(tmp_path: Path) -> None:
    """As from a scribe that has died and comes back."""
    told = iter([3, 3, 4, 5, 6])
    search = StartSearch(LocalShelf(tmp_path / "checkpoints"), lambda: next(told), lambda: 60.0, BELL)
    with cluster_of(tmp_path, nodes=1) as cluster:
        cluster.begin(2)
        cluster.take(5, slot=0)
        assert find(search, cluster).step == 5
    assert list(told) == [6]  # and no longer than until they have come
