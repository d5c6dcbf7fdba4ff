"""The gang: the node actors of one generation, seen and steered as one. Calls to them are never waited for."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.checkpoint.shelf import Address
from orchestrator.config.resolve import WorldPlan
from orchestrator.config.run import RunConfig
from orchestrator.control.group import ReadyNode
from orchestrator.control.jobs import NodeReport, RankJob, RunHandle
from orchestrator.control.node import NodeActor
from orchestrator.core.words import Word, World

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Member:
    """One node actor as the controller knows it."""

    name: str
    actor: Any
    beat: Any = None
    sent: float = 0.0
    answered: float = 0.0
    report: NodeReport | None = None
    lost: str = ""


class Gang:
    """Beats every node actor and keeps its last answer."""

    def __init__(self, run: RunHandle, config: RunConfig) -> None:
        self._run, self._config = run, config
        self._members: list[_Member] = []
        self.word = Word.GO_ON

    @property
    def size(self) -> int:
        return len(self._members)

    @property
    def node_actors(self) -> list[str]:
        return [member.name for member in self._members]

    @property
    def reports(self) -> list[NodeReport]:
        """The last answer of every node that has given one."""
        return [member.report for member in self._members if member.report is not None]

    def start_nodes(self, generation: int, nodes: Sequence[ReadyNode], device: str, threads: int) -> None:
        """A node actor on each ready group; it starts its warming ranks at once."""
        cluster = self._config.cluster
        amount = {"num_gpus": cluster.ranks_per_node} if device == "cuda" else {}
        for number, node in enumerate(sorted(nodes, key=lambda node: node.node_id)):
            name = self._run.actor_name(f"node-g{generation}-{number}")
            strategy = PlacementGroupSchedulingStrategy(node.group, placement_group_bundle_index=0)
            actor = (
                ray.remote(NodeActor)
                .options(
                    name=name,
                    namespace=self._run.namespace,
                    lifetime="detached",
                    num_cpus=0,
                    scheduling_strategy=strategy,
                    max_restarts=0,
                    **amount,
                )
                .remote(self._run, node.group, self._config.elastic.lease_s, self._config.tracking.system_every_s)
            )
            actor.start_ranks.remote(
                cluster.ranks_per_node, device=device, threads=threads, env=cluster.env, with_store=number == 0
            )
            self._members.append(_Member(name=name, actor=actor, answered=time.monotonic()))

    def adopt(self, node_actors: Sequence[str]) -> bool:
        """Find the node actors of an earlier controller. False when one of them is gone."""
        for name in node_actors:
            try:
                actor = ray.get_actor(name, namespace=self._run.namespace)
            except ValueError:
                self._members.clear()
                return False
            self._members.append(_Member(name=name, actor=actor, answered=time.monotonic()))
        return bool(self._members)

    def begin(self, generation: int, plan: WorldPlan, start: Address | None, timeout_s: float) -> int:
        """Hand every rank its job; ranks are numbered node by node. Returns the world size."""
        per_node = self._config.cluster.ranks_per_node
        size = per_node * self.size
        store = next(m.report.store for m in self._members if m.report is not None and m.report.store is not None)
        for number, member in enumerate(self._members):
            jobs = [
                RankJob(
                    run=self._run,
                    generation=generation,
                    world=World.flat(number * per_node + local, size, local, per_node),
                    micro_batch=plan.micro_batch,
                    accumulation=plan.accumulation,
                    store_host=store[0],
                    store_port=store[1],
                    timeout_s=timeout_s,
                    start=start,
                )
                for local in range(per_node)
            ]
            member.actor.train.remote(jobs)
        return size

    def beat(self) -> tuple[list[NodeReport], list[str]]:
        """Take the answers that have come, send the next beats; reports of the living and why others are lost."""
        now = time.monotonic()
        for member in self._members:
            self._take_answer(member, now)
            if member.beat is None and not member.lost:
                member.beat, member.sent = member.actor.beat.remote(self.word), now
        reports = [m.report for m in self._members if m.report is not None and not m.lost]
        return reports, [m.lost for m in self._members if m.lost]

    def _take_answer(self, member: _Member, now: float) -> None:
        if member.beat is None:
            return
        done, _ = ray.wait([member.beat], timeout=0)
        if done:
            try:
                member.report = ray.get(member.beat)
                member.answered = now
            except RayActorError as error:
                member.lost = f"node actor {member.name} is gone: {str(error).splitlines()[0]}"
            member.beat = None
        elif member.report is not None and now - member.answered > self._config.elastic.heartbeat_timeout_s:
            silence = now - member.answered
            member.lost = f"node {member.report.host} has been silent for {silence:.1f} s (elastic.heartbeat_timeout_s)"

    def end(self) -> None:
        """End ranks and node actors, the silent ones included."""
        asked = [member.actor.end_ranks.remote() for member in self._members if not member.lost]
        for call in asked:
            try:
                ray.get(call, timeout=5.0)
            except (RayActorError, GetTimeoutError) as error:
                log.warning("a node actor did not end its ranks: %s", error)
        for member in self._members:
            ray.kill(member.actor)
        self._members.clear()
        self.word = Word.GO_ON
