"""The node actor: one a node. It holds the node's bundle, has the nursery fork the ranks, watches them, renews their
lease, carries their news, owns the memory of the vault, and on the first node has the rendezvous store kept. The
controller beats it; without beats it ends its ranks and itself."""

import logging
import os
import signal
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util import remove_placement_group
from ray.util.placement_group import PlacementGroup

from orchestrator.control.board import Board
from orchestrator.control.connect import own_node
from orchestrator.control.home import VaultHome
from orchestrator.control.jobs import (
    NewsParcel,
    NodeReport,
    Problem,
    RankEnd,
    RankJob,
    RankReport,
    RankSetup,
    RankState,
    RunHandle,
    StoreSetup,
)
from orchestrator.control.logs import keep_output
from orchestrator.control.machine import Machine
from orchestrator.control.nursery import NurseryAddress, start_nursery
from orchestrator.core.clock import SystemClock
from orchestrator.core.news import CheckpointNews, SystemNews, TroubleNews
from orchestrator.core.words import Word
from orchestrator.tracking.lease import host_identity
from orchestrator.tracking.logs import rank_log_name
from orchestrator.tracking.rundir import RunDir

log = logging.getLogger(__name__)
NURSERY_TIMEOUT_S = 60.0


class NodeActor:
    """The Ray actor of one node."""

    def __init__(self, run: RunHandle, group: PlacementGroup, lease_s: float, sample_every_s: float | None) -> None:
        self._run, self._group, self._lease_s = run, group, lease_s
        self._node_id, self._host = own_node()
        self._logs = RunDir(run.path).logs
        keep_output(self._logs, f"node-{self._host}")
        self._members: list[Member] = []
        self._store_port: int | None = None
        self._vault: VaultHome | None = None
        self._renewed = time.monotonic()
        threading.Thread(target=self._end_without_lease, daemon=True).start()
        if sample_every_s is not None:
            threading.Thread(target=self._tell_samples, args=(sample_every_s,), daemon=True).start()

    def start_ranks(self, count: int, *, device: str, threads: int, env: dict[str, str], with_store: bool) -> None:
        """Have `count` warm ranks forked. Each sees all devices of the bundle: masking one by one slows NCCL."""
        nursery = self._find_nursery(device, env)
        self._vault = VaultHome(self._run, self._host, count, nursery)
        visible = {name: os.environ[name] for name in ("CUDA_VISIBLE_DEVICES",) if name in os.environ}
        for local_rank in range(count):
            board, path = Board.create()
            board.renew(self._lease_s)
            setup = RankSetup(
                name=rank_log_name(self._host, local_rank),
                host=self._host,
                logs=self._logs,
                board=path,
                node_actor_pid=os.getpid(),
                device=device if device == "cpu" else f"{device}:{local_rank}",
                threads=threads,
                env=visible | env,
                vault=self._vault.door(local_rank),
            )
            self._members.append(Member(self._run, local_rank, board, nursery, setup))
        if with_store:
            threading.Thread(target=self._keep_store, args=(nursery,), daemon=True).start()

    def _find_nursery(self, device: str, env: dict[str, str]) -> NurseryAddress:
        """The one that was started ahead of time, if it lives and is for this device; otherwise one of our own."""
        found = NurseryAddress.inherited()
        if found is not None and found.device == device and found.is_listening():
            return found
        own = NurseryAddress.invent(device)
        self._nursery = start_nursery(own, self._logs, env)
        return own

    def _keep_store(self, nursery: NurseryAddress) -> None:
        self._store = nursery.connect(NURSERY_TIMEOUT_S)
        self._store.send(StoreSetup(self._host))
        self._store_port = self._store.recv()

    def train(self, jobs: list[RankJob]) -> None:
        """Give each local rank its job."""
        for member, job in zip(self._members, jobs, strict=True):
            member.train(job)

    def beat(self, word: Word) -> NodeReport:
        """The controller lives and says `word`; the answer is how the ranks are."""
        self._renewed = time.monotonic()
        for member in self._members:
            member.board.renew(self._lease_s)
            member.board.say(word)
        return NodeReport(
            node_id=self._node_id,
            host=self._host,
            identity=host_identity(),
            pid=os.getpid(),
            ranks=tuple(member.report() for member in self._members),
            store=(self._host, self._store_port) if self._store_port else None,
            vault=self._vault.address if self._vault else None,
        )

    def end_ranks(self) -> None:
        """Kill every rank: a frozen one answers nothing."""
        for member in self._members:
            member.kill()
        self._members.clear()

    def _tell_samples(self, every_s: float) -> None:
        """How this node is doing, for the scribe. Nothing waits for it; what cannot be told is dropped."""
        machine = Machine(SystemClock())
        told = None
        while True:
            time.sleep(every_s)
            news = SystemNews(node=self._host, t=round(time.time(), 3), metrics=machine.sample())
            if told is not None and not ray.wait([told], timeout=0)[0]:
                continue  # the scribe is busy, or dead and about to come back
            with suppress(RayError, ValueError):  # ValueError: no such actor
                scribe = ray.get_actor(self._run.actor_name("scribe"), namespace=self._run.namespace)
                told = scribe.write.remote([news])

    def _end_without_lease(self) -> None:
        while time.monotonic() - self._renewed < self._lease_s:
            time.sleep(0.5)
        log.error("no controller for %g s: ending ranks and giving the node back", self._lease_s)
        self.end_ranks()
        with suppress(RayError):
            remove_placement_group(self._group)
        os._exit(0)


class Member:
    """One local rank as its node actor knows it; a thread listens to it."""

    def __init__(
        self, run: RunHandle, local_rank: int, board: Board, nursery: NurseryAddress, setup: RankSetup
    ) -> None:
        self.board = board
        self._run, self._local_rank = run, local_rank
        self._connection: Connection | None = None
        self._pid = 0
        self._rank: int | None = None
        self._state = RankState.WARMING
        self._end: RankEnd | None = None
        self._problem: Problem | None = None
        threading.Thread(target=self._listen, args=(nursery, setup), daemon=True).start()

    def train(self, job: RankJob) -> None:
        assert self._connection is not None
        self._rank, self._state = job.world.rank, RankState.TRAINING
        with suppress(OSError):  # it has just died; the listener knows
            self._connection.send(job)

    def kill(self) -> None:
        if self._pid and self._state not in (RankState.DIED, RankState.ENDED):
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)

    def report(self) -> RankReport:
        return RankReport(
            rank=self._rank,
            local_rank=self._local_rank,
            pid=self._pid,
            state=self._state,
            step=self.board.step,
            phase=self.board.phase,
            busy_s=self.board.busy_s,
            end=self._end,
            problem=self._problem,
        )

    def _listen(self, nursery: NurseryAddress, setup: RankSetup) -> None:
        """Hello, news, and how it ended. End of file before that is the death of the process, whatever killed it."""
        try:
            self._connection = nursery.connect(NURSERY_TIMEOUT_S)
            self._connection.send(setup)
            self._pid = self._connection.recv()
            self._state = RankState.READY
            while self._state in (RankState.READY, RankState.TRAINING):
                self._hear(self._connection, self._connection.recv())
        except (OSError, EOFError):
            log.warning("rank process %d died", self._pid)
            self._state = RankState.DIED

    def _hear(self, connection: Connection, message: NewsParcel | RankEnd | Problem) -> None:
        match message:
            case NewsParcel(news):
                self._deliver("scribe", "write", [n for n in news if not isinstance(n, CheckpointNews)])
                self._deliver("controller", "note", [n for n in news if isinstance(n, CheckpointNews | TroubleNews)])
            case RankEnd():
                self._end, self._state = message, RankState.ENDED
            case Problem():
                self._problem, self._state = message, RankState.RAISED
        with suppress(OSError):  # killed meanwhile: what it had sent before is read all the same
            connection.send(None)

    def _deliver(self, actor: str, method: str, news: list[Any]) -> None:
        """Repeat until the receiver has said yes: it may be dying and coming back, and it knows doubles."""
        while news:
            try:
                handle = ray.get_actor(self._run.actor_name(actor), namespace=self._run.namespace)
                ray.get(getattr(handle, method).remote(news), timeout=30.0)
            except (RayError, ValueError) as error:  # dead, slow, or its disk is full; ValueError: no such actor
                log.warning("the %s does not answer, trying again: %s", actor, error)
                time.sleep(0.2)
            else:
                return
