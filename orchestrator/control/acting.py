"""Carrying out what the policy decides: into the journal first, flushed to disk, then into the world.

Comes after policy.py; gang.py, group.py, start.py and the scribe are what it moves. Nothing here waits for a node."""

import queue
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import ray

from orchestrator.config.resolve import Facts, WorldPlan, resolve_world
from orchestrator.config.run import RunConfig
from orchestrator.control.bell import Bell
from orchestrator.control.blame import BadNode, Fault
from orchestrator.control.decisions import (
    Avoid,
    Begin,
    Break,
    BurySpare,
    Decision,
    Drop,
    Finish,
    Freed,
    GiveBack,
    Kill,
    Leave,
    Left,
    Release,
    Seek,
    StartNodes,
    Stop,
)
from orchestrator.control.gang import Gang
from orchestrator.control.group import Groups
from orchestrator.control.membership import can_begin, choose_seats
from orchestrator.control.notes import Note, describe_note
from orchestrator.control.recall import bound_of
from orchestrator.control.seen import NodeSeen
from orchestrator.control.start import Bound, Start, StartSearch
from orchestrator.core.clock import Clock
from orchestrator.core.drill import Drill
from orchestrator.core.news import TroubleNews
from orchestrator.core.words import Word
from orchestrator.tracking.journal import Journal

COLLECTIVE_TIMEOUT_S = 600.0
SCRIBE_FINISH_S = 60.0


@dataclass(frozen=True, slots=True)
class Tools:
    """What is moved. `bell`: for whoever looks round."""

    journal: Journal
    gang: Gang
    groups: Groups
    search: StartSearch
    scribe: Any
    bell: Bell


class Acting:
    """`generation`: of the world that was begun last, by this controller or one before it."""

    def __init__(
        self,
        config: RunConfig,
        facts: Facts,
        drill: Drill,
        clock: Clock,
        tools: Tools,
        *,
        world: Sequence[str] = (),
        generation: int = 0,
        bounds: Sequence[Bound] = (),
    ) -> None:
        self._config, self._facts, self._drill, self._clock = config, facts, drill, clock
        self.journal = tools.journal
        self._gang, self._groups = tools.gang, tools.groups
        self._search, self._scribe, self._bell = tools.search, tools.scribe, tools.bell
        self._world, self.generation, self._bounds = tuple(world), generation, list(bounds)
        self._has_world = bool(world)  # whether the generation that is claimed has one
        self._start = Start(None)
        self._greeted = set(tools.gang.node_actors)  # those of an earlier controller it has greeted itself
        self._notes: queue.Queue[Note] = queue.Queue()
        self.ask_after = 0.0  # on the monotonic clock: nodes that were given back are left to others until then

    def act(self, decision: Decision) -> None:
        match decision:
            case StartNodes(node_ids):
                self._start_nodes(node_ids)
            case GiveBack(again_in_s):
                self._write(
                    "gave_back", reason=f"too few nodes are free; they are asked for again in {again_in_s:.0f} s"
                )
                self.ask_after = self._clock.monotonic() + again_in_s
            case Drop(name, host, reason):
                self._write("node_lost", node=name, host=host, reason=reason)
                self._groups.give_back([self._gang.drop(name)])
            case Release(name, host, reason):
                self._write("node_released", node=name, host=host, reason=reason)
                self._groups.give_back([self._gang.release(name)])
            case Avoid(bad):
                self._avoid(bad)
            case BurySpare(host, pid, evidence):
                self._write("spare_died", nodes=[host], process=pid, reason=evidence)
            case Break(fault, back_to):
                self._break(fault, back_to)
            case Kill(name, host, pids):
                reason = "did not leave a broken world (elastic.abort_timeout_s)"
                self._write("ranks_killed", node=name, host=host, pids=list(pids), reason=reason)
                self._gang.kill(name, pids, reason)
            case Freed(killed, evidence):
                self._write("freed", killed=list(killed), evidence=list(evidence))
            case Leave(leaving):
                self._write("leaving", reason=leaving.reason, nodes=list(leaving.hosts))
                self._gang.say(Word.LEAVE)
            case Left(step, back_to, reason):
                self._write("left", step=step, back_to=back_to, reason=reason)
                self._gang.say(Word.GO_ON)
            case Seek():
                vaults = [report.vault for report in self._gang.reports if report.vault is not None]
                self._search.begin(vaults, self._bounds)
            case Begin():
                self._begin(decision)
            case Stop():
                self._write("stopping")
                self._gang.say(Word.STOP)
            case Finish():
                self._finish(decision)

    def _write(self, event: str, **fields: Any) -> None:
        self.journal.append(event, **fields)
        bound = bound_of({"event": event, "generation": self.journal.generation, **fields})
        if bound is not None:
            self._bounds.append(bound)

    def _start_nodes(self, node_ids: Sequence[str]) -> None:
        ready = [node for node in self._groups.look.ready if node.node_id in node_ids]
        self._write("warming", nodes=list(node_ids))
        threads = self._plan(1).cpus_per_rank
        for node in ready:
            self._gang.start_node(self.journal.generation, node, self._config.cluster.device, threads)

    def _avoid(self, bad: BadNode) -> None:
        until = self._clock.now() + bad.until - self._clock.monotonic()
        evidence = list(bad.evidence)
        reason = f"{len(evidence)} failures, the last: {evidence[-1]}"
        self._write("node_avoided", node=bad.host, host=bad.host, until=until, evidence=evidence, reason=reason)

    def _break(self, fault: Fault, back_to: int | None) -> None:
        self._write(
            "fault",
            kind=fault.kind,
            reason=fault.reason,
            culprits=list(fault.culprits),
            nodes=list(fault.hosts),
            step=fault.step,
            raised=fault.raised,
            back_to=back_to,
        )
        self._gang.say(Word.GO_ON)
        self._gang.abort(self._world, self.generation)
        if fault.kind == "damaged":
            self._search.distrust(self._start)
        self.annotate(f"fault in generation {self.generation}: {fault.reason.splitlines()[0]}")

    def _begin(self, begin: Begin) -> None:
        """Every world has a generation of its own."""
        self._start = self._search.take()
        if self._has_world:
            self.journal = self.journal.claim_next()
        self._world, self.generation, self._has_world = begin.world, self.journal.generation, True
        for problem in self._start.damaged:
            self._write("checkpoint_damaged", reason=problem)
        plan = self._plan(len(begin.world))
        reports = [self._gang.report_of(name) for name in begin.world]
        per_node = self._config.cluster.ranks_per_node
        seats = [[rank.pid for rank in choose_seats(report.ranks, per_node)] for report in reports]
        self._write(
            "started",
            world_size=plan.world_size,
            step=self._start.step,
            snapshot=self._start.snapshot,
            checkpoint=self._start.checkpoint,
            why=begin.why,
            plan=asdict(plan),
            node_actors=list(begin.world),
            node_pids=[report.pid for report in reports],
            ranks=[{"node": one.host, "pid": pid} for one, pids in zip(reports, seats, strict=True) for pid in pids],
        )
        self._gang.say(Word.GO_ON)
        timeout_s, leave_at = self._collective_timeout_s(), self._drill.next_world(self._start.step)
        self._gang.begin(self.generation, begin.world, seats, plan, self._start.address, timeout_s, leave_at)
        self.annotate(f"generation {self.generation}: {plan.world_size} rank(s) from {self._start.name}")

    def _finish(self, finish: Finish) -> None:
        """News first, then the journal's last word, then the machines."""
        self.journal.refuse_if_superseded()
        try:
            told = self._scribe.finish.remote(finish.state, finish.exit_code, finish.reason)
            ray.get(told, timeout=SCRIBE_FINISH_S)
        except ray.exceptions.RayError as error:
            self._write("scribe_failed", reason=str(error).splitlines()[0])
        self.write_notes()
        fields: dict[str, Any] = {"exit_code": int(finish.exit_code), "reason": finish.reason}
        if finish.step is not None:
            fields["step"] = finish.step
        if finish.culprits:
            fields["culprits"] = list(finish.culprits)
        self._write(finish.state.value, **fields)
        self.give_back()

    def give_back(self) -> None:
        """All that the cluster keeps for the run: nothing of it ends by itself but ranks and node actors."""
        self._gang.end()
        self._groups.end()
        ray.kill(self._scribe)

    # what ranks tell for the journal

    def note(self, news: Sequence[Note]) -> None:
        """From any thread; written down in the next look round."""
        for one in news:
            self._notes.put(one)
        self._bell.ring()

    def write_notes(self) -> list[TroubleNews]:
        """Returns those that throw suspicion on a node."""
        suspicions = []
        while not self._notes.empty():
            note = self._notes.get()
            event, fields = describe_note(note)
            self._write(event, **fields)
            if isinstance(note, TroubleNews) and note.kind == "not_repeated":
                suspicions.append(note)
        return suspicions

    def greet(self, nodes: Sequence[NodeSeen]) -> None:
        """Nodes whose ranks have become warm."""
        for node in nodes:
            if node.name not in self._greeted and can_begin(node, self._config.cluster.ranks_per_node):
                self._greeted.add(node.name)
                self._write("node_joined", node=node.name, host=node.host, reason="its ranks are warm")

    def renew_scribe(self) -> None:
        self._scribe.renew.remote()

    def annotate(self, text: str) -> None:
        """Something to see beside the curves."""
        self._scribe.annotate.remote(text)

    def _plan(self, nodes: int) -> WorldPlan:
        return resolve_world(self._config, self._facts, nodes * self._config.cluster.ranks_per_node)

    def _collective_timeout_s(self) -> float:
        """Ranks that have their batch wait in a collective for one whose store is down."""
        reads_stores = self._config.packed_len is None
        return COLLECTIVE_TIMEOUT_S + (self._config.data.store.retry_for_s if reads_stores else 0.0)
