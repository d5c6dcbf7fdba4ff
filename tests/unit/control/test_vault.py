"""Vaults of nodes that are real processes: what is kept, mirrored, and still there when processes are killed."""

import os
import random
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from orchestrator.checkpoint.found import list_checkpoints
from orchestrator.checkpoint.slot import Slot
from orchestrator.checkpoint.vault import Committed, Kept, Written
from orchestrator.control.jobs import VaultAddress
from orchestrator.control.snapshots import list_held
from orchestrator.control.wire import Wire
from tests.fakes.vault_nodes import Cluster, cluster_of, wait_until


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Cluster]:
    """Two nodes of two ranks each, in their first generation."""
    with cluster_of(tmp_path, nodes=2, per_node=2) as cluster:
        cluster.begin(1)
        yield cluster


def held_by(address: VaultAddress) -> set[tuple[int, int, bool]]:
    """(step, rank, own)"""
    return {(held.place.step, held.place.rank, held.is_own) for held in list_held(address)}


def test_what_is_kept_is_with_the_buddy(pair: Cluster) -> None:
    pair.take(5, slot=0)
    assert held_by(pair.nodes[0].address) == {(5, 0, True), (5, 1, True), (5, 2, False), (5, 3, False)}
    own = {held.place: Slot.open(held.path) for held in list_held(pair.nodes[0].address) if held.is_own}
    copies = {held.place: Slot.open(held.path) for held in list_held(pair.nodes[1].address) if not held.is_own}
    assert set(own) == set(copies)
    for place, copy in copies.items():
        assert bytes(copy.body()) == bytes(own[place].body())
        assert copy.part() == own[place].part()
        assert copy.checks() == own[place].checks()


def test_a_copy_of_the_last_committed_snapshot_is_never_overwritten(pair: Cluster) -> None:
    for step, slot in ((5, 0), (6, 1), (7, 0), (8, 1)):
        pair.take(step, slot)
        mirrored = {step for step, _, is_own in held_by(pair.nodes[1].address) if not is_own}
        assert mirrored == ({step - 1, step} if step > 5 else {step})


def test_a_checkpoint_is_written_and_committed(pair: Cluster) -> None:
    for rank in pair.ranks:
        rank.fill(5, 0)
        rank.vault.keep(0, write=True)
    for rank in pair.ranks:
        assert rank.hear(Kept).step == 5
        assert rank.hear(Written) == Written(step=5)
    pair.ranks[0].vault.commit(0)
    committed = pair.ranks[0].hear(Committed)
    assert isinstance(committed, Committed)
    assert [str(found.path) for found in list_checkpoints(pair.run / "checkpoints")] == [committed.path]


def test_a_dead_vault_is_started_again_and_keeps_what_the_dead_one_had_not(pair: Cluster) -> None:
    pair.take(5, slot=0)
    for node in pair.nodes:
        before, address = node.vault_pid, node.address
        node.kill_vault(signal.SIGSTOP)  # it takes in what is asked, and does nothing
        for rank in pair.ranks:
            rank.fill(6, 1)
        pair.ranks[0].vault.keep(1, write=True)
        os.kill(before, signal.SIGKILL)
        wait_until(lambda node=node, before=before: node.vault_pid != before)
        assert node.address == address
        break
    assert pair.ranks[0].hear(Written).problem
    assert pair.ranks[0].hear(Kept).step == 6
    assert (6, 0, False) in held_by(pair.nodes[1].address)
    pair.take(7, slot=2)


def test_a_snapshot_is_not_kept_before_the_buddy_is_back(pair: Cluster) -> None:
    os.kill(pair.nodes[1].vault_pid, signal.SIGSTOP)
    pair.ranks[0].fill(5, 0)
    pair.ranks[0].vault.keep(0, write=False)
    wait_until(lambda: (5, 0, True) in held_by(pair.nodes[0].address))
    assert pair.ranks[0].vault.answers() == []
    os.kill(pair.nodes[1].vault_pid, signal.SIGKILL)
    assert pair.ranks[0].hear(Kept).step == 5
    assert (5, 0, False) in held_by(pair.nodes[1].address)


def test_whoever_has_another_token_learns_nothing(pair: Cluster) -> None:
    from multiprocessing import AuthenticationError

    address = pair.nodes[0].address
    with pytest.raises(AuthenticationError):
        Wire.to_vault(VaultAddress(address.host, address.port, "0" * 64))
    assert list_held(VaultAddress(address.host, address.port, "0" * 64)) == []
    pair.take(5, slot=0)


def test_an_earlier_generation_has_nothing_to_say(pair: Cluster) -> None: ...


def test_nothing_is_left_of_a_node_that_is_killed(pair: Cluster) -> None:
    before = set(Path("/dev/shm").iterdir())
    pair.take(5, slot=0)
    assert set(Path("/dev/shm").iterdir()) == before
    address = pair.nodes[1].address
    (path,) = {held.path for held in list_held(address) if held.place.rank == 2 and held.is_own}
    pair.kill(1)
    assert list_held(address) == []
    with pytest.raises(FileNotFoundError):
        Slot.open(path)
