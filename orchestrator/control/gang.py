"""The gang: the node actors of a run, seen and steered as one. No call to one of them is ever waited for: a node may be
gone at any time, and it is here that its silence is noticed, and that a call to it has failed: it is lost then."""

import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util import list_named_actors
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.checkpoint.shelf import Address
from orchestrator.config.resolve import WorldPlan
from orchestrator.config.run import RunConfig
from orchestrator.control.bell import Bell
from orchestrator.control.group import ReadyNode
from orchestrator.control.jobs import NodeReport, Notice, RankJob, RunHandle, SnapshotStart, VaultAddress
from orchestrator.control.node import NodeActor
from orchestrator.control.seen import NodeSeen
from orchestrator.core.words import Word, World

log = logging.getLogger(__name__)
UNHEARD = -1  # a version that no report has: answered at once
END_S = 5.0


@dataclass(slots=True)
class _Member:
    """One node actor as the controller knows it."""

    name: str
    node_id: str  # "" until it is known
    host: str
    actor: Any
    bell: Bell  # rung when a call is over
    answered: float
    beat: Future[Any] | None = None
    calls: dict[Future[Any], str] = field(default_factory=dict)  # beside the beat, that are not over yet: their methods
    report: NodeReport | None = None
    lost: str = ""

    def ask(self, method: str, *arguments: Any, **options: Any) -> Future[Any]:
        call: Future[Any] = getattr(self.actor, method).remote(*arguments, **options).future()
        call.add_done_callback(lambda _: self.bell.ring())
        return call

    def tell(self, method: str, *arguments: Any, **options: Any) -> None:
        """It is not waited for; how it went is seen in a later look round."""
        self.calls[self.ask(method, *arguments, **options)] = method

    def take_ended(self) -> list[tuple[str, Future[Any]]]:
        """Calls that have come to their end since the last time."""
        ended = [(method, call) for call, method in self.calls.items() if call.done()]
        for _, call in ended:
            del self.calls[call]
        if self.beat is not None and self.beat.done():
            ended.append(("beat", self.beat))
        return ended


class Gang:
    """Beats every node actor and keeps its last answer. The bell is rung when one has something new to tell."""

    def __init__(self, run: RunHandle, config: RunConfig, bell: Bell) -> None:
        self._run, self._config, self._bell = run, config, bell
        self._members: dict[str, _Member] = {}
        self._word = Word.GO_ON
        self._born = 0  # node actors that this controller has made
        self._errands = ThreadPoolExecutor(8, thread_name_prefix="errands")

    @property
    def node_actors(self) -> list[str]:
        return list(self._members)

    @property
    def reports(self) -> list[NodeReport]:
        """The last answer of every node that has given one."""
        return [member.report for member in self._members.values() if member.report is not None]

    @property
    def node_ids(self) -> frozenset[str] | None:
        """None while one of them is not known yet. Of those that are lost, too, until they are dropped."""
        ids = frozenset(member.node_id for member in self._members.values())
        return ids if "" not in ids else None

    @property
    def patience_s(self) -> float:
        """How long until a node will have been silent for too long, if none says anything."""
        now = time.monotonic()
        waiting = [member for member in self._members.values() if member.report is not None and not member.lost]
        left = (self._patience_with(member)[1] - (now - member.answered) for member in waiting)
        return max(0.0, min(left, default=math.inf))

    def report_of(self, name: str) -> NodeReport:
        report = self._members[name].report
        assert report is not None
        return report

    # who is of it

    def start_node(self, generation: int, node: ReadyNode, device: str, threads: int) -> str:
        """A node actor on a ready group; it starts its warming ranks at once. Returns its name."""
        cluster, elastic = self._config.cluster, self._config.elastic
        amount = {"num_gpus": cluster.ranks_per_node} if device == "cuda" else {}
        self._born += 1
        name = self._run.actor_name(f"node-{generation}-{self._born}")
        actor = (
            ray.remote(NodeActor)
            .options(
                name=name,
                namespace=self._run.namespace,
                lifetime="detached",
                num_cpus=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(node.group, placement_group_bundle_index=0),
                max_restarts=0,
                max_concurrency=8,
                **amount,
            )
            .remote(self._run, node.group, elastic, self._config.tracking.system_every_s)
        )
        member = self._member(name, actor, node_id=node.node_id, host=node.host)
        member.tell(
            "start_ranks", cluster.ranks_per_node, cluster.spares, device=device, threads=threads, env=cluster.env
        )
        self._members[name] = member
        return name

    def adopt(self, world: Iterable[str]) -> bool:
        """Take over the node actors of an earlier controller. Those of `world` that are gone are members that are lost.

        False when none is left."""
        listed = list_named_actors(all_namespaces=True)
        prefix = self._run.actor_name("node-")
        living = [a["name"] for a in listed if a["namespace"] == self._run.namespace and a["name"].startswith(prefix)]
        for name in dict.fromkeys([*world, *sorted(living)]):
            try:
                actor, lost = ray.get_actor(name, namespace=self._run.namespace), ""
            except ValueError:
                actor, lost = None, f"node actor {name} is gone"
            self._members[name] = self._member(name, actor, node_id="", host=name, lost=lost)
        if not living:
            self._members.clear()
        return bool(living)

    def drop(self, name: str) -> str:
        """Forget a node actor that is lost; should it live, it ends. Returns its node's id."""
        member = self._members.pop(name)
        if member.actor is not None:
            self._errands.submit(ray.kill, member.actor)
        return member.node_id

    def release(self, name: str) -> str:
        """End its ranks and it. Returns its node's id."""
        member = self._members.pop(name)
        self._errands.submit(_end, member.actor)
        return member.node_id

    def end(self) -> None:
        """End ranks and node actors, the silent ones included."""
        ends = [self._errands.submit(_end, m.actor) for m in self._members.values() if m.actor is not None]
        self._members.clear()
        for end in ends:
            end.result()

    def _member(self, name: str, actor: Any, *, node_id: str, host: str, lost: str = "") -> _Member:
        now = time.monotonic()
        return _Member(name=name, node_id=node_id, host=host, actor=actor, bell=self._bell, answered=now, lost=lost)

    # what is heard of it

    def beat(self, notices: Mapping[str, Notice]) -> list[NodeSeen]:
        """Take the answers that have come, send the next beats. `notices`: of hosts, what others say of them."""
        now = time.monotonic()
        self._take_answers(now)
        for member in self._members.values():
            if member.beat is None and not member.lost:
                version = member.report.version if member.report is not None else UNHEARD
                member.beat = member.ask("beat", self._word, version)
        return [_seen(member, notices) for member in self._members.values()]

    def _take_answers(self, now: float) -> None:
        for member in self._members.values():
            if not member.lost:
                for method, call in member.take_ended():
                    _take_answer(member, method, call, now)
            silence, (limit, allowed_s) = now - member.answered, self._patience_with(member)
            if member.report is not None and silence > allowed_s:
                member.lost = member.lost or f"node {member.host} has been silent for {silence:.1f} s ({limit})"

    def _patience_with(self, member: _Member) -> tuple[str, float]:
        """While its ranks have yet to get warm, imports take all its time, and nothing waits for it."""
        elastic, report = self._config.elastic, member.report
        if report is not None and any(rank.is_free or rank.generation > 0 for rank in report.ranks):
            return "elastic.heartbeat_timeout_s", elastic.heartbeat_timeout_s
        return "elastic.lease_s", max(elastic.lease_s, elastic.heartbeat_timeout_s)

    # what is told to it

    def say(self, word: Word) -> None:
        """From now on, and at once: beats under way still carry the last one."""
        if word is not self._word:
            self._word = word
            for member in self._members.values():
                if not member.lost:
                    member.tell("beat", word, UNHEARD)

    def begin(
        self,
        generation: int,
        world: Sequence[str],
        seats: Sequence[Sequence[int]],
        plan: WorldPlan,
        start: Address | SnapshotStart | None,
        timeout_s: float,
        leave_at: int | None,
    ) -> None:
        """Hand every rank of these node actors its job, by the pids in its seats; ranks are numbered node by node."""
        per_node = self._config.cluster.ranks_per_node
        reports = [self.report_of(name) for name in world]
        assert reports[0].store is not None
        store_host, store_port = reports[0].store
        for number, name in enumerate(world):
            jobs = [
                RankJob(
                    run=self._run,
                    generation=generation,
                    world=World.flat(number * per_node + local, per_node * len(world), local, per_node),
                    micro_batch=plan.micro_batch,
                    accumulation=plan.accumulation,
                    store_host=store_host,
                    store_port=store_port,
                    timeout_s=timeout_s,
                    start=start,
                    snapshots=plan.snapshots != "none",
                    buddy=_buddy_of(number, reports) if plan.snapshots == "mirrored" else None,
                    leave_at=leave_at,
                )
                for local in range(per_node)
            ]
            self._members[name].tell("train", jobs, seats[number])

    def abort(self, world: Iterable[str], generation: int) -> None:
        for name in world:
            if (member := self._members.get(name)) is not None and not member.lost:
                member.tell("abort", generation)

    def kill(self, name: str, pids: Sequence[int], why: str) -> None:
        self._members[name].tell("kill_ranks", list(pids), why)


def _take_answer(member: _Member, method: str, call: Future[Any], now: float) -> None:
    try:
        answer = call.result()
    except RayError as error:
        log.warning("%s of node actor %s: %s", method, member.name, error)
        member.lost = member.lost or f"node actor {member.name} on {member.host} {_describe_end(error, method)}"
    else:
        if call is member.beat:
            member.beat, member.answered, member.report = None, now, answer
            member.node_id, member.host = answer.node_id, answer.host


def _describe_end(error: RayError, method: str) -> str:
    if isinstance(error, RayTaskError):
        return f"has failed: {method} raised {type(error.cause).__name__}: {error.cause}"
    lines = str(error).splitlines()
    could_start = not (isinstance(error, RayActorError) and error.actor_init_failed)
    return f"is gone: {lines[0]}" if could_start else f"could not start: {lines[-1]}"


def _seen(member: _Member, notices: Mapping[str, Notice]) -> NodeSeen:
    told = member.report.notice if member.report is not None else None
    notice = told or notices.get(member.host)
    return NodeSeen(name=member.name, host=member.host, report=member.report, lost=member.lost, notice=notice)


def _buddy_of(number: int, reports: Sequence[NodeReport]) -> VaultAddress | None:
    """Nodes form a ring: each keeps what the one before it holds."""
    return reports[(number + 1) % len(reports)].vault if len(reports) > 1 else None


def _end(actor: Any) -> None:
    try:
        ray.get(actor.end_ranks.remote(), timeout=END_S)
    except RayError as error:  # gone, or silent
        log.warning("a node actor did not end its ranks: %s", str(error).splitlines()[0])
    ray.kill(actor)
