"""Nodes with vaults and ranks, all of them processes that can be killed, without Ray and without training.

A node is a process that owns a VaultHome, as a node actor does; its vault is forked by a nursery that has imported
nothing. Ranks hold parts of a made-up model and follow the protocol of train/saver.py in the test's own process."""

import os
import random
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import yaml

from orchestrator.checkpoint.fragments import RankState
from orchestrator.checkpoint.vault import Answer, Kept
from orchestrator.control.home import VaultHome
from orchestrator.control.jobs import RunHandle, VaultAddress, VaultDoor
from orchestrator.control.mirror import Snapshot
from orchestrator.control.nursery import NurseryAddress, fork_for_all
from orchestrator.control.vaulted import RankVault
from orchestrator.core.words import World
from orchestrator.train.snapshot import Snapper
from tests.fakes.saving import FACTS, MadeUpModel, make_model, split
from tests.fakes.small_runs import small_config

TIMEOUT_S = 30.0


class Node:
    """One node: its node actor's process answers over a pipe."""

    def __init__(self, run: Path, num_ranks: int) -> None:
        self._pipe, theirs = Pipe()
        self.pid = _fork(lambda: _live_as_node_actor(theirs, run, num_ranks))
        theirs.close()
        wait_until(lambda: self.address is not None)

    @property
    def address(self) -> VaultAddress:
        return self._ask("address")

    @property
    def doors(self) -> list[VaultDoor]:
        return self._ask("doors")

    @property
    def vault_pid(self) -> int:
        """Of the process that listens now."""
        return self._ask("vault_pid")

    def kill_vault(self) -> None:
        os.kill(self.vault_pid, signal.SIGKILL)

    def freeze_vault(self) -> None:
        """Nothing that is asked of it is done any more."""
        vault = psutil.Process(self.vault_pid)
        vault.suspend()
        wait_until(lambda: vault.status() == psutil.STATUS_STOPPED)

    def kill(self) -> None:
        """All of it: the vault follows its node actor."""
        wait_until(lambda: psutil.pid_exists(self.vault_pid))  # one that was killed is started again first
        vault = os.pidfd_open(self.vault_pid)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        assert select.select([vault], [], [], TIMEOUT_S)[0], "the vault has outlived its node actor"
        os.close(vault)
        self._pipe.close()

    def _ask(self, what: str) -> Any:
        self._pipe.send(what)
        return self._pipe.recv()


def _live_as_node_actor(pipe: Connection, run: Path, num_ranks: int) -> None:
    threading.Thread(target=_end_with, args=(os.pidfd_open(os.getppid()),), daemon=True).start()
    nursery = NurseryAddress.invent("cpu")
    listener, watched = nursery.listen(), os.pidfd_open(os.getpid())
    _fork(lambda: fork_for_all(listener, watched))
    home = VaultHome(RunHandle(path=run, key="test"), "127.0.0.1", num_ranks, nursery)
    answers: dict[str, Callable[[], Any]] = {
        "address": lambda: home.address,
        "doors": lambda: [home.door(rank) for rank in range(num_ranks)],
        "vault_pid": lambda: home.pid,
    }
    while True:
        pipe.send(answers[pipe.recv()]())


def _end_with(process: int) -> None:
    select.select([process], [], [])
    os._exit(0)


class Cluster:
    """Nodes in a ring, and ranks with parts of one model; `take` is what a training step's end does."""

    def __init__(self, folder: Path, nodes: int, per_node: int = 1, model: MadeUpModel | None = None) -> None:
        self.run, self.per_node = folder, per_node
        folder.mkdir(exist_ok=True)
        config = small_config().model_dump(mode="json", exclude_unset=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        self.nodes = [Node(folder, per_node) for _ in range(nodes)]
        self.model = model or make_model([((257, 33), "trainable", "bfloat16"), ((11,), "buffer", "int64")])
        self.ranks: list[Rank] = []

    def begin(self, generation: int, committed: Snapshot | None = None) -> None:
        """Ranks on all nodes that are left."""
        self.end_ranks()
        size = len(self.nodes) * self.per_node
        parts = split(self.model, size, random.Random(generation))
        for number, node in enumerate(self.nodes):
            buddy = self.nodes[(number + 1) % len(self.nodes)].address if len(self.nodes) > 1 else None
            for door in node.doors:
                rank = number * self.per_node + door.local_rank
                vault = RankVault(door, generation=generation, buddy=buddy, committed=committed)
                self.ranks.append(Rank(World.flat(rank, size), generation, vault, parts[rank]))

    def take(self, step: int, slot: int) -> None:
        """A snapshot that all ranks keep."""
        for rank in self.ranks:
            rank.fill(step, slot)
            rank.vault.keep(slot, write=False)
        for rank in self.ranks:
            assert rank.hear(Kept).step == step

    def kill(self, node: int) -> None:
        self.nodes.pop(node).kill()

    def end_ranks(self) -> None:
        for rank in self.ranks:
            rank.vault.close()
        self.ranks.clear()

    def end(self) -> None:
        self.end_ranks()
        while self.nodes:
            self.kill(0)


class Rank:
    def __init__(self, world: World, generation: int, vault: RankVault, state: RankState) -> None:
        self.world, self.vault, self._state = world, vault, state
        self._heard: list[Answer] = []
        self._snapper = Snapper(world, generation)

    def fill(self, step: int, slot: int) -> None:
        """Values that tell the step: those of the model plus the step."""
        fragments = [one.__class__(one.name, one.state, one.start, one.values + step) for one in self._state.fragments]
        state = RankState(fragments, self._state.tensors, self._state.scalars, self._state.engine)
        self._snapper.take(self.vault.slots[slot], state, step, FACTS)

    def hear(self, kind: type[Answer]) -> Answer:
        """The next answer of this kind; those of the same slot come in any order."""
        while True:
            for number, answer in enumerate(self._heard):
                if isinstance(answer, kind):
                    del self._heard[number]
                    return answer
            self._heard += self.vault.answers(wait=True)


@contextmanager
def cluster_of(folder: Path, nodes: int, per_node: int = 1, model: MadeUpModel | None = None) -> Iterator[Cluster]:
    cluster = Cluster(folder, nodes, per_node, model)
    try:
        yield cluster
    finally:
        cluster.end()


def wait_until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < deadline, "it has not come about"
        time.sleep(0.005)


def _fork(work: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child
