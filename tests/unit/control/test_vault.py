"""Vaults of nodes that are real processes: what is kept, mirrored, and still there when processes are killed."""

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from multiprocessing import AuthenticationError
from pathlib import Path

import psutil
import pytest
import torch

from orchestrator.checkpoint.found import list_checkpoints
from orchestrator.checkpoint.reader import StateReader
from orchestrator.checkpoint.slot import Slot
from orchestrator.checkpoint.vault import Committed, Kept, Written
from orchestrator.control.jobs import VaultAddress
from orchestrator.control.snapshot_reader import open_snapshot
from orchestrator.control.snapshots import Inventory, list_held
from orchestrator.control.vaulted import RankVault
from orchestrator.control.wire import ANSWER_S, Wire
from orchestrator.core.errors import CheckpointDamaged
from tests.fakes.saving import FACTS, MadeUpModel, make_model
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
    node, rank = pair.nodes[0], pair.ranks[0]
    address, dead = node.address, node.vault_pid
    node.freeze_vault()
    rank.fill(6, 1)
    rank.vault.keep(1, write=True)
    node.kill_vault()
    lost = rank.hear(Written)
    assert isinstance(lost, Written)
    assert (lost.step, lost.problem) == (6, "checkpoint not written: the process that was writing it has died")
    assert rank.hear(Kept).step == 6
    assert (6, 0, False) in held_by(pair.nodes[1].address)
    assert (node.address, node.vault_pid != dead) == (address, True)
    rank.fill(7, 2)
    rank.vault.keep(2, write=True)
    assert rank.hear(Kept).step == 7
    assert rank.hear(Written) == Written(step=7)


def test_a_vault_that_dies_while_it_commits_is_told_as_a_failure(pair: Cluster) -> None:
    for rank in pair.ranks:
        rank.fill(5, 0)
        rank.vault.keep(0, write=True)
        rank.hear(Kept)
        rank.hear(Written)
    pair.nodes[0].freeze_vault()
    pair.ranks[0].vault.commit(0)
    pair.nodes[0].kill_vault()
    lost = pair.ranks[0].hear(Committed)
    assert isinstance(lost, Committed)
    assert (lost.step, lost.path, bool(lost.problem)) == (5, "", True)


def test_a_snapshot_is_not_kept_before_the_buddy_is_back(pair: Cluster) -> None:
    pair.nodes[1].freeze_vault()
    pair.ranks[0].fill(5, 0)
    pair.ranks[0].vault.keep(0, write=False)
    wait_until(lambda: (5, 0, True) in held_by(pair.nodes[0].address))
    assert pair.ranks[0].vault.answers() == []
    pair.nodes[1].kill_vault()
    assert pair.ranks[0].hear(Kept).step == 5
    assert (5, 0, False) in held_by(pair.nodes[1].address)


def test_a_rank_does_not_wait_for_a_frozen_vault_when_it_leaves(pair: Cluster) -> None:
    def connections() -> int:
        return len(psutil.Process().net_connections("unix"))

    pair.end_ranks()
    pair.nodes[0].freeze_vault()
    before = connections()
    vault = RankVault(pair.nodes[0].doors[0], generation=2, buddy=None, committed=None)
    wait_until(lambda: connections() > before)
    began = time.monotonic()
    vault.close()
    assert time.monotonic() - began < 1.0
    pair.nodes[0].kill_vault()


def test_whoever_has_another_token_learns_nothing(pair: Cluster) -> None:
    address = pair.nodes[0].address
    with pytest.raises(AuthenticationError):
        Wire.to_vault(VaultAddress(address.host, address.port, "0" * 64))
    assert list_held(VaultAddress(address.host, address.port, "0" * 64)) == []
    pair.take(5, slot=0)


def test_an_earlier_generation_has_nothing_to_say(pair: Cluster) -> None:
    pair.take(5, slot=0)
    late = pair.ranks.pop(0)
    pair.begin(2, committed=(1, 5))
    pair.take(6, slot=0)
    late.fill(7, 2)
    late.vault.keep(2, write=False)
    pair.take(7, slot=2)  # not the slot that the late one has filled: new ranks count theirs from the second on
    places = {held.place[:2] for held in list_held(pair.nodes[1].address) if not held.is_own and held.place.rank == 0}
    assert places == {(2, 6), (2, 7)}
    assert late.vault.answers() == []
    late.vault.close()


def test_nothing_is_left_of_a_node_that_is_killed(pair: Cluster) -> None:
    pair.take(5, slot=0)
    held = [one.path for node in pair.nodes for one in list_held(node.address)]
    assert all(str(Path(path).readlink()).startswith("/memfd:longhaul") for path in held)
    assert held
    address = pair.nodes[1].address
    (path,) = {held.path for held in list_held(address) if held.place.rank == 2 and held.is_own}
    pair.kill(1)
    assert list_held(address) == []
    with pytest.raises(FileNotFoundError):
        Slot.open(path)


def test_generations_leave_no_threads_and_no_descriptors(pair: Cluster) -> None:
    def count() -> list[tuple[int, int]]:
        processes = [psutil.Process(pid) for pid in (os.getpid(), *(node.vault_pid for node in pair.nodes))]
        return [(process.num_threads(), process.num_fds()) for process in processes]

    def live(generation: int) -> None:
        pair.begin(generation)
        pair.take(generation, slot=0)
        pair.end_ranks()

    live(2)
    pause_until_quiet(count)
    before = count()
    for generation in range(3, 7):
        live(generation)
    wait_until(lambda: count() == before)


def pause_until_quiet(count: Callable[[], object]) -> None:
    """What ends behind the ranks has ended."""
    seen: list[object] = []

    def is_quiet() -> bool:
        seen.append(count())
        return seen[-20:] == seen[-1:] * 20

    wait_until(is_quiet)


# ---- going on ----


def check_state(cluster: Cluster, step: int, generation: int) -> None:
    """What is left gives that snapshot, whole, read on every node that is left and over the network only."""
    start = Inventory.take([node.address for node in cluster.nodes]).choose()
    assert start is not None
    assert (start.step, start.generation) == (step, generation)
    for token in [node.address.token for node in cluster.nodes] + [""]:
        with closing(open_snapshot(start, token)) as reader:
            assert (reader.step, reader.generation, reader.facts) == (step, generation, FACTS)
            assert reader.engine() == {"loss_scale": 65536.0}
            read = read_all(reader, cluster.model)
            for (name, state), values in cluster.model.values.items():
                assert reader.scalars(name) == {"step": 7.0}
                assert torch.equal(read[name, state], values + step)


def read_all(reader: StateReader, model: MadeUpModel) -> dict[tuple[str, str], torch.Tensor]:
    return {place: reader.read(*place, 0, values.numel()) for place, values in model.values.items()}


def test_ranks_killed_in_the_middle_of_a_snapshot_go_on_from_the_one_before(pair: Cluster) -> None:
    pair.take(5, slot=0)
    pair.take(6, slot=1)
    pair.ranks[0].fill(7, 2)
    pair.ranks[3].vault.slots[2].begin(1000)  # what this rank has written of step 7 when it dies
    pair.end_ranks()
    check_state(pair, 6, 1)


def test_a_snapshot_that_all_had_finished_is_taken_although_none_was_mirrored(pair: Cluster) -> None:
    pair.take(5, slot=0)
    for rank in pair.ranks:
        rank.fill(6, 1)
    pair.end_ranks()
    check_state(pair, 6, 1)


@pytest.mark.parametrize("lost", [0, 1])
def test_without_a_node_its_buddy_serves_what_it_held(pair: Cluster, lost: int) -> None:
    pair.take(5, slot=0)
    pair.take(6, slot=1)
    for rank in pair.ranks:
        rank.fill(7, 2)  # not mirrored yet: the lost node's parts of it are gone
    pair.kill(lost)
    check_state(pair, 6, 1)


def test_of_a_lost_node_what_was_mirrored_of_an_unfinished_snapshot_is_used(pair: Cluster) -> None:
    pair.take(5, slot=0)
    for rank in pair.ranks:
        rank.fill(6, 1)
    for rank in pair.ranks[2:]:
        rank.vault.keep(1, write=False)
        rank.hear(Kept)
    pair.kill(1)
    check_state(pair, 6, 1)


def test_node_and_buddy_may_go_in_turn(tmp_path: Path) -> None:
    with cluster_of(tmp_path, nodes=3) as cluster:
        cluster.begin(1)
        cluster.take(5, slot=0)
        cluster.take(6, slot=1)
        cluster.kill(0)
        check_state(cluster, 6, 1)
        cluster.begin(2, committed=(1, 6))
        for number, rank in enumerate(cluster.ranks):
            rank.fill(7, 0)
            rank.vault.keep(0, write=False)
            rank.hear(Kept)
            # the new ring overwrites nothing that is needed as long as its own snapshot is not whole
            check_state(cluster, *((7, 2) if number == 1 else (6, 1)))
        cluster.kill(0)
        check_state(cluster, 7, 2)
        cluster.begin(3, committed=(2, 7))
        cluster.take(8, slot=0)
        check_state(cluster, 8, 3)


def test_node_and_buddy_lost_together_leave_no_snapshot(tmp_path: Path) -> None:
    with cluster_of(tmp_path, nodes=3) as cluster:
        cluster.begin(1)
        cluster.take(5, slot=0)
        addresses = [node.address for node in cluster.nodes]
        cluster.kill(0)
        cluster.kill(0)
        assert Inventory.take(addresses).choose() is None


def big_model() -> MadeUpModel:
    return make_model([((6_000_000,), "buffer", "float32")])


def test_vaults_killed_at_any_moment_cost_no_snapshot(tmp_path: Path) -> None:
    chance = random.Random(0)
    with cluster_of(tmp_path, nodes=2, model=big_model()) as cluster:
        cluster.begin(1)
        for step in range(5, 11):
            for rank in cluster.ranks:
                rank.fill(step, step % 2)
                rank.vault.keep(step % 2, write=False)
            time.sleep(0.03 * chance.random())
            cluster.nodes[chance.randrange(2)].kill_vault()
            for rank in cluster.ranks:
                assert rank.hear(Kept).step == step
            check_state(cluster, step, 1)


def test_a_node_killed_at_any_moment_of_mirroring_costs_that_snapshot_at_most(tmp_path: Path) -> None:
    chance = random.Random(1)
    for trial in range(4):
        with cluster_of(tmp_path / str(trial), nodes=2, model=big_model()) as cluster:
            cluster.begin(1)
            cluster.take(5, slot=0)
            for rank in cluster.ranks:
                rank.fill(6, 1)
                rank.vault.keep(1, write=False)
            time.sleep(0.03 * chance.random())
            cluster.kill(trial % 2)
            start = Inventory.take([cluster.nodes[0].address]).choose()
            assert start is not None
            assert start.step in (5, 6)
            check_state(cluster, start.step, 1)


def test_a_frozen_vault_is_passed_over_and_what_is_read_from_it_comes_from_another(pair: Cluster) -> None:
    pair.take(5, slot=0)
    addresses = [node.address for node in pair.nodes]
    start = Inventory.take(addresses).choose()
    pair.nodes[1].freeze_vault()
    began = time.monotonic()
    after = Inventory.take(addresses).choose()
    assert after is not None
    assert {at.vault for copies in after.parts for at in copies} == {addresses[0]}
    assert start is not None
    with closing(open_snapshot(start, "")) as reader:
        read = read_all(reader, pair.model)
    assert time.monotonic() - began < 3 * ANSWER_S
    assert all(torch.equal(read[place], values + 5) for place, values in pair.model.values.items())
    pair.nodes[1].kill_vault()


def test_a_node_that_dies_while_it_is_read_from_is_done_without(pair: Cluster) -> None:
    pair.take(5, slot=0)
    start = Inventory.take([node.address for node in pair.nodes]).choose()
    assert start is not None
    with closing(open_snapshot(start, "")) as reader:
        pair.kill(1)
        read = read_all(reader, pair.model)
    assert all(torch.equal(read[place], values + 5) for place, values in pair.model.values.items())


def test_a_snapshot_that_is_no_longer_there_is_not_read(pair: Cluster) -> None:
    pair.take(5, slot=0)
    start = Inventory.take([node.address for node in pair.nodes]).choose()
    assert start is not None
    pair.take(6, slot=1)
    pair.take(7, slot=0)
    with pytest.raises(CheckpointDamaged, match="no longer there"):
        open_snapshot(start, "")


def test_a_byte_that_changed_in_memory_is_noticed(pair: Cluster) -> None:
    pair.take(5, slot=0)
    pair.ranks[1].vault.slots[0].body()[-1] ^= 1
    start = Inventory.take([node.address for node in pair.nodes]).choose()
    assert start is not None
    with closing(open_snapshot(start, "")) as reader, pytest.raises(CheckpointDamaged, match="differ"):
        read_all(reader, pair.model)
