"""The node actor: one a node. It holds the node's bundle, starts the ranks, watches them, renews their lease, and on
the first node keeps the rendezvous store. The controller beats it; without beats it ends its ranks and itself."""

import logging
import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.util import remove_placement_group
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.control.board import Board
from orchestrator.control.connect import own_node
from orchestrator.control.jobs import (
    NodeReport,
    Problem,
    RankEnd,
    RankJob,
    RankReport,
    RankSetup,
    RankState,
    RunHandle,
)
from orchestrator.control.logs import keep_output
from orchestrator.control.rank import Rank
from orchestrator.control.store import keep_store
from orchestrator.core.words import Word
from orchestrator.tracking.lease import host_identity
from orchestrator.tracking.rundir import RunDir

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Member:
    """One local rank as the node actor knows it."""

    local_rank: int
    actor: Any
    board: Board
    hello: Any
    training: Any = None
    pid: int = 0
    ended: RankReport | None = None


class NodeActor:
    """The Ray actor of one node."""

    def __init__(self, run: RunHandle, group: PlacementGroup, lease_s: float) -> None:
        self._run, self._group, self._lease_s = run, group, lease_s
        self._node_id, self._host = own_node()
        self._logs = RunDir(run.path).logs
        keep_output(self._logs, f"node-{self._host}")
        self._members: list[_Member] = []
        self._store: Any = None
        self._store_address: tuple[str, int] | None = None
        self._renewed = time.monotonic()
        threading.Thread(target=self._end_without_lease, daemon=True).start()

    def start_ranks(self, count: int, *, device: str, threads: int, env: dict[str, str], with_store: bool) -> list[str]:
        """Start `count` warming ranks; returns the device of each. Every rank sees all of the node's devices."""
        log.info("starting %d rank(s) on %s", count, device)
        gpus = ray.get_gpu_ids()
        devices = [f"cuda:{gpus[i]}" for i in range(count)] if device == "cuda" else ["cpu"] * count
        for local_rank, own in enumerate(devices):
            self._members.append(self._start_rank(local_rank, own, threads, env))
        if with_store:
            threading.Thread(target=self._open_store, daemon=True).start()
        return devices

    def _start_rank(self, local_rank: int, device: str, threads: int, env: dict[str, str]) -> _Member:
        board, path = Board.create()
        board.renew(self._lease_s)
        setup = RankSetup(
            name=f"rank-{self._host}-{local_rank}",
            host=self._host,
            logs=self._logs,
            board=path,
            node_actor_pid=os.getpid(),
            device=device,
            threads=threads,
            env=env,
        )
        strategy = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=0)
        actor = ray.remote(Rank).options(num_cpus=0, max_restarts=0, scheduling_strategy=strategy).remote(setup)
        return _Member(local_rank=local_rank, actor=actor, board=board, hello=actor.hello.remote())

    def _open_store(self) -> None:
        self._store, port = keep_store(self._host)
        self._store_address = (self._host, port)

    def train(self, jobs: list[RankJob]) -> None:
        """Give each local rank its job."""
        for member, job in zip(self._members, jobs, strict=True):
            member.training = member.actor.train.remote(job)

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
            ranks=tuple(self._report(member) for member in self._members),
            store=self._store_address,
        )

    def _report(self, member: _Member) -> RankReport:
        if member.ended is not None:
            return member.ended
        future = member.training or member.hello
        done, _ = ray.wait([future], timeout=0)
        if not done:
            state = RankState.WARMING if member.training is None else RankState.TRAINING
            return self._row(member, state)
        try:
            result = ray.get(future)
        except RayActorError as error:
            log.warning("rank process %d died: %s", member.pid, error)
            member.ended = self._row(member, RankState.DIED)
            return member.ended
        if isinstance(result, RankEnd):
            member.ended = self._row(member, RankState.ENDED, end=result)
        elif isinstance(result, Problem):
            member.ended = self._row(member, RankState.RAISED, problem=result)
        else:
            member.pid = result
            return self._row(member, RankState.READY)
        return member.ended

    def _row(self, member: _Member, state: RankState, **fields: Any) -> RankReport:
        board = member.board
        return RankReport(
            local_rank=member.local_rank, pid=member.pid, state=state, step=board.step, phase=board.phase, **fields
        )

    def end_ranks(self) -> None:
        """Kill every rank, by pid first: a frozen process answers no call."""
        for member in self._members:
            if member.pid:
                with suppress(ProcessLookupError):
                    os.kill(member.pid, signal.SIGKILL)
            ray.kill(member.actor)
        self._members.clear()

    def _end_without_lease(self) -> None:
        while time.monotonic() - self._renewed < self._lease_s:
            time.sleep(0.5)
        log.error("no controller for %g s: ending ranks and giving the node back", self._lease_s)
        self.end_ranks()
        with suppress(RayError):
            remove_placement_group(self._group)
        os._exit(0)
