"""Ranks of one node that really train, without Ray: every kind of death, and what is left of a world after it."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from multiprocessing.resource_tracker import ensure_running
from pathlib import Path

import psutil
import pytest

from orchestrator.control.jobs import RankReport, RankState, VaultAddress
from orchestrator.control.stacks import waits_for_others
from orchestrator.core.words import Word
from tests.fakes.training_node import TIMEOUT_S, TrainingNode, training_node
from tests.integration.conftest import small_config, write_corpus

pytestmark = pytest.mark.cluster

TIMES, SETTLED = 20, 4  # the first aborts fill caches
GROWTH = 16 * 2**20  # bytes, from abort to abort of the later ones
FREE_S = 1.0  # half of elastic.abort_timeout_s


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingNode]:
    """Two seats and a spare; a snapshot after every step."""
    folder = tmp_path_factory.mktemp("node")
    write_corpus(folder / "shards")
    config = small_config()
    config["root"] = str(folder / "runs")
    config["data"] |= {"train": [{"path": str(folder / "shards")}], "work": str(folder / "work"), "ledger": "digest"}
    config["train"]["steps"] = 1_000_000
    config["evaluate"] = {"every_steps": None}
    config["checkpoint"] = {"snapshot_every": 1}
    with training_node(folder, config) as node:
        node.begin_next()
        yield node
        told = len(node.losses)
        node.wait_for(lambda _: len(node.losses) > told + 2)  # tests may end before their steps have been told
        assert all(len(losses) == 1 for losses in node.losses.values()), "a repeated step was another one"
        assert set(node.losses) == set(range(max(node.losses) + 1)), "a step is missing"


def both(node: TrainingNode) -> list[RankReport]:
    """Those in the seats, when there is a spare beside them."""
    node.wait_for(lambda reports: any(one.is_free for one in reports))
    return list(node.wait_until_trained()[:2])


def recover(node: TrainingNode) -> None:
    node.seats.abort(node.generation)
    began = time.monotonic()
    node.wait_until_free()
    assert time.monotonic() - began < FREE_S
    node.begin_next()
    node.wait_until_trained()


def wait_until_it_waits(node: TrainingNode, pid: int) -> None:
    """For other ranks, by its stacks."""
    [member] = [one for one in node.seats.members if one.pid == pid]
    deadline = time.monotonic() + TIMEOUT_S
    while not waits_for_others(member.read_stacks()):
        assert time.monotonic() < deadline, member.read_stacks()
        member.ask_for_stacks()
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGABRT, signal.SIGBUS])
def test_a_rank_that_dies_is_replaced_by_the_spare_and_the_other_lives_on(node: TrainingNode, number: int) -> None:
    victim, survivor = both(node)
    [spare] = [one for one in node.seats.report() if one.is_free]
    os.kill(victim.pid, number)
    node.wait_for(lambda reports: reports[0].state is RankState.DIED)
    recover(node)
    assert [one.pid for one in both(node)] == [spare.pid, survivor.pid]


def test_who_waits_for_a_frozen_rank_gets_out(node: TrainingNode) -> None:
    survivor, victim = both(node)
    os.kill(victim.pid, signal.SIGSTOP)
    wait_until_it_waits(node, survivor.pid)
    node.seats.abort(node.generation)
    freed = node.wait_for(lambda reports: reports[0].is_free)[0]
    assert freed.problem is not None
    assert freed.problem.collateral
    node.watch.kill([victim.pid], "not free in time")
    recover(node)
    assert both(node)[0].pid == survivor.pid


def test_who_joins_a_world_that_a_frozen_rank_does_not_gets_out(node: TrainingNode) -> None:
    _, second = both(node)
    node.seats.abort(node.generation)
    node.wait_until_free()
    os.kill(second.pid, signal.SIGSTOP)
    node.begin_next()
    joining = node.wait_for(lambda reports: reports[0].phase == "start" and reports[0].generation == node.generation)[0]
    node.seats.abort(node.generation)
    began = time.monotonic()
    node.wait_for(lambda reports: reports[0].is_free)
    assert time.monotonic() - began < FREE_S
    node.watch.kill([second.pid], "not free in time")
    recover(node)
    assert joining.pid in [one.pid for one in both(node)]


def test_who_waits_for_a_vault_whose_buddy_is_gone_gets_out(node: TrainingNode) -> None:
    both(node)
    node.seats.abort(node.generation)
    node.wait_until_free()
    with socket.create_server(("127.0.0.1", 0)) as frozen:  # it takes connections, and says nothing
        node.begin_next(buddy=VaultAddress(*frozen.getsockname(), "token"))
        pids = [one.pid for one in node.wait_until_trained()[:2]]
        node.word = Word.LEAVE
        node.wait_for(lambda reports: [one.phase for one in reports[:2]] == ["checkpoint"] * 2)
        node.word = Word.GO_ON
        recover(node)
    assert [one.pid for one in both(node)] == pids


def test_a_second_death_while_the_next_world_forms(node: TrainingNode) -> None:
    for _ in range(3):
        victim, _ = both(node)
        os.kill(victim.pid, signal.SIGKILL)
        node.wait_for(lambda reports: reports[0].state is RankState.DIED)
        node.seats.abort(node.generation)
        node.wait_until_free()
        node.begin_next()
        late = node.seats.report()[1]
        os.kill(late.pid, signal.SIGKILL)
        node.wait_for(lambda reports, pid=late.pid: any(one.pid == pid and one.state == "died" for one in reports))
        recover(node)


def test_nursery_store_and_vault_are_replaced(node: TrainingNode) -> None:
    survivor, _ = both(node)
    store = node.store.address
    ensure_running()  # of this process, as others that use multiprocessing have it
    for process in node.helpers():
        process.kill()
    node.wait_for(lambda _: node.store.address != store)  # its death has been noticed
    for _ in range(2):  # the second spare comes from the new nursery
        _, victim = both(node)
        os.kill(victim.pid, signal.SIGKILL)
        node.wait_for(lambda found, pid=victim.pid: any(one.pid == pid and one.state == "died" for one in found))
        node.wait_until_reachable()
        recover(node)
    assert both(node)[0].pid == survivor.pid
    ensure_running()  # warns when it had died


def test_a_survivor_does_not_grow(node: TrainingNode) -> None:
    footprints = []
    survivor, victim = both(node)
    for _ in range(TIMES):
        os.kill(victim.pid, signal.SIGKILL)
        node.wait_for(lambda reports: reports[1].state is RankState.DIED)
        recover(node)
        footprints.append(footprint(survivor.pid))
        victim = both(node)[1]
    settled = footprints[SETTLED:]
    own, threads, descriptors = zip(*settled, strict=True)
    assert max(own) - own[0] < GROWTH, footprints
    assert max(threads) - threads[0] <= 2, footprints
    assert max(descriptors) - descriptors[0] <= 4, footprints


def footprint(pid: int) -> tuple[int, int, int]:
    """Bytes of its own, threads, descriptors."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    own = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
    process = psutil.Process(pid)
    return own, process.num_threads(), process.num_fds()
