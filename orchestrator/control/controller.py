"""The controller of one run: a detached actor that observes, decides (control/policy.py) and acts.

It alone appends to the journal, and writes each decision down before acting on it. When it dies, Ray starts it again:
it claims the next generation and adopts the ranks that are still running."""

import logging
import os
import queue
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import ray

from orchestrator.checkpoint.found import newest_sound
from orchestrator.checkpoint.shelf import Address, LocalShelf, open_shelf
from orchestrator.config.load import load_config
from orchestrator.config.resolve import Facts, WorldPlan, resolve_world
from orchestrator.config.run import RunConfig
from orchestrator.control.gang import Gang
from orchestrator.control.group import Groups, ReadyNode, offers, remove_leftover_groups
from orchestrator.control.jobs import NodeReport, PreparerReport, RankReport, RunHandle
from orchestrator.control.logs import keep_output
from orchestrator.control.policy import (
    Begin,
    Decision,
    Finish,
    Limits,
    Phase,
    Restart,
    Say,
    Seen,
    StartNodes,
    State,
    StopWish,
    decide,
)
from orchestrator.control.preparer import Preparation
from orchestrator.control.scribe import ScribeActor
from orchestrator.core.clock import SystemClock
from orchestrator.core.errors import CheckpointDamaged, LonghaulError, StoreDown, Superseded
from orchestrator.core.news import CheckpointNews, TroubleNews
from orchestrator.core.words import ExitCode, RunState
from orchestrator.data.shards.manifest import Manifest
from orchestrator.tracking.journal import Journal
from orchestrator.tracking.lease import host_identity, write_lease
from orchestrator.tracking.now import Now, RankNow, Waiting, write_now
from orchestrator.tracking.rundir import RunDir, RunView

log = logging.getLogger(__name__)
TICK_S = 0.05
LEASE_EVERY_S = 1.0
SHOW_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Charge:
    """What a controller is put in charge of: the generations after `after_generation`. `about` goes to W&B."""

    run: RunHandle
    address: str
    facts: Facts
    about: dict[str, Any]
    after_generation: int


class ControllerActor:
    """The Ray actor: runs the loop in a thread, so that it answers calls meanwhile."""

    def __init__(self, charge: Charge) -> None:
        keep_output(RunDir(charge.run.path).logs, "controller")
        self._controller = Controller(charge)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._controller.run()
        except Superseded:
            log.exception("another controller has taken over")
        except Exception as error:  # the boundary: whatever went wrong must be in the journal
            log.exception("the controller cannot go on")
            self._controller.give_up(error)
        finally:
            ray.kill(ray.get_runtime_context().current_actor)

    def note(self, news: Sequence[CheckpointNews | TroubleNews]) -> None:
        self._controller.note(news)

    def pid(self) -> int:
        return os.getpid()


class Controller:
    def __init__(self, charge: Charge) -> None:
        self._charge, self._run_dir = charge, RunDir(charge.run.path)
        self._config: RunConfig = load_config(self._run_dir.config).config
        self._clock = SystemClock()
        self._notes: queue.Queue[CheckpointNews | TroubleNews] = queue.Queue()
        self._device = self._config.cluster.device
        cluster = self._config.cluster
        self._limits = Limits(
            min_nodes=cluster.nodes.min,
            max_nodes=cluster.nodes.max,
            ranks_per_node=cluster.ranks_per_node,
            restart_budget=self._config.elastic.restart_budget,
            start_timeout_s=cluster.start_timeout_s,
        )
        self._gang = Gang(charge.run, self._config)
        self._groups = Groups(charge.run, self._bundle(), cluster.nodes.max)
        self._leased = self._shown = 0.0
        self._why_waiting = ""
        self._distrusts_checkpoints = False  # a rank has found one damaged
        self._scribe: Any = None
        self._preparation: Preparation | None = None  # while data is still being prepared

    # observe -> decide -> act

    def run(self) -> None:
        """Take charge, then tick until the run has ended."""
        before = self._run_dir.view()
        if before.state.ended and before.generation > self._charge.after_generation:
            return  # this actor came back only to find its work done
        self._journal = Journal.claim(self._run_dir.events, self._clock, address=self._charge.address)
        self._renew_leases()
        self._scribe = self._start_scribe()
        if Manifest.load(self._run_dir.manifest).segments_to_come:
            self._preparation = Preparation(self._charge.run, self._world_plan(1).prepare_cpus, self._config.elastic)
        state = self._take_over(before)
        while state.phase is not Phase.ENDED:
            seen = self._observe(state)
            state, decisions = decide(state, seen, self._clock.monotonic(), self._limits)
            for decision in decisions:
                self._act(decision, seen)
            time.sleep(TICK_S)

    def _take_over(self, before: RunView) -> State:
        """Adopt what an earlier life of this controller left running; otherwise clear it away and begin by waiting."""
        now = self._clock.monotonic()
        alive = not before.state.ended and bool(before.started)
        if alive and self._gang.adopt(before.started["node_actors"]):
            self._journal.append("adopted", node_actors=self._gang.node_actors)
            self._annotate("a new controller has taken over the running ranks")
            return State(phase=Phase.RUNNING, since=now)
        remove_leftover_groups(self._charge.run)
        return State(phase=Phase.WAITING, since=now)

    def _observe(self, state: State) -> Seen:
        self._renew_leases()
        self._write_notes()
        seen = Seen(stop=self._stop_wish(), unprepared=self._look_at_preparing())
        if state.phase is Phase.WAITING:
            self._groups.ask()
            ready = self._groups.ready()
            if self._is_time_to_show():
                self._show_waiting(state, ready)
            return replace(seen, ready_nodes=len(ready), why_waiting=self._why_waiting)
        reports, lost = self._gang.beat()
        if self._is_time_to_show():
            self._show(state.phase, ranks=[rank_now(node.host, rank) for node in reports for rank in node.ranks])
        return replace(seen, nodes=reports, expected_nodes=self._gang.size, lost=lost)

    def _look_at_preparing(self) -> PreparerReport | None:
        """What has changed is written down. The report, if preparing has failed."""
        if self._preparation is None:
            return None
        for event, fields in self._preparation.look():
            self._journal.append(event, **fields)
        return self._preparation.failed

    # now.json, for people

    def _is_time_to_show(self) -> bool:
        now = self._clock.monotonic()
        if now - self._shown < SHOW_EVERY_S:
            return False
        self._shown = now
        return True

    def _show_waiting(self, state: State, ready: Sequence[ReadyNode]) -> None:
        bundle = self._bundle()
        waiting = Waiting(
            since=self._clock.now() - (self._clock.monotonic() - state.since),
            asked=bundle,
            needed=self._limits.min_nodes,
            wanted=self._limits.max_nodes,
            ready=len(ready),
            nodes=offers(bundle, {node.node_id for node in ready}),
        )
        self._why_waiting = waiting.describe()
        self._show(state.phase, waiting=waiting)

    def _show(self, phase: Phase, *, waiting: Waiting | None = None, ranks: Sequence[RankNow] = ()) -> None:
        now = Now(
            t=self._clock.now(),
            generation=self._journal.generation,
            phase=phase.name.lower(),
            waiting=waiting,
            ranks=list(ranks),
        )
        try:
            write_now(self._run_dir.path, now)
        except OSError as error:  # a full disk must not end a run for the sake of a picture of it
            log.warning("now.json cannot be written: %s", error)

    def _act(self, decision: Decision, seen: Seen) -> None:
        match decision:
            case StartNodes():
                self._start_nodes()
            case Begin():
                self._begin(seen.nodes)
            case Say(word):
                self._journal.append("stopping")
                self._gang.word = word
            case Restart():
                self._restart(decision)
            case Finish():
                self._finish(decision)

    # act

    def _start_nodes(self) -> None:
        nodes = self._groups.ready()[: self._limits.max_nodes]
        self._groups.keep_only(nodes)
        self._journal.append("warming", nodes=[node.node_id for node in nodes])
        threads = self._world_plan(len(nodes)).cpus_per_rank
        self._gang.start_nodes(self._journal.generation, nodes, self._device, threads)

    def _begin(self, nodes: Sequence[NodeReport]) -> None:
        start = self._find_start()
        name = str(start).rpartition("/")[2] if start is not None else None
        plan = self._world_plan(len(nodes))
        ranks = [{"node": node.host, "pid": rank.pid} for node in nodes for rank in node.ranks]
        self._journal.append(
            "started",
            world_size=plan.world_size,
            checkpoint=name,
            plan=asdict(plan),
            node_actors=self._gang.node_actors,
            node_pids=[node.pid for node in nodes],
            ranks=ranks,
        )
        self._gang.begin(self._journal.generation, plan, start, self._collective_timeout_s())
        self._annotate(f"generation {self._journal.generation}: {plan.world_size} rank(s) from {name or 'step 0'}")

    def _find_start(self) -> Address | None:
        """The newest sound checkpoint. Leases are kept meanwhile: every byte of it may have to be read.

        Of one in a store that is left to the ranks, who check what they read, until they have found one damaged."""
        shelf = open_shelf(self._config, self._run_dir.checkpoints)
        thoroughly = isinstance(shelf, LocalShelf) or self._distrusts_checkpoints
        with ThreadPoolExecutor(1) as thread:
            search = thread.submit(newest_sound, shelf, thoroughly=thoroughly)
            while not search.done():
                self._renew_leases()
                self._gang.beat()
                time.sleep(TICK_S)
        start, damaged = search.result()
        for problem in damaged:
            self._journal.append("checkpoint_damaged", reason=problem)
        return start

    def _restart(self, restart: Restart) -> None:
        """A generation has failed: the next one starts from the newest sound checkpoint."""
        self._journal.append("restarting", reason=restart.reason, culprits=restart.culprits)
        self._distrusts_checkpoints |= CheckpointDamaged.__name__ in restart.reason
        self._gang.end()
        self._groups.give_back_all()
        self._journal.close()
        self._journal = Journal.claim(self._run_dir.events, self._clock, address=self._charge.address)
        self._annotate(f"restart as generation {self._journal.generation}: {restart.reason.splitlines()[0]}")

    def _finish(self, finish: Finish) -> None:
        """News first, then the journal's last word, then the machines."""
        if self._preparation is not None:
            self._preparation.end()
        try:
            told = self._scribe.finish.remote(finish.state, finish.exit_code, finish.reason)
            ray.get(told, timeout=_SCRIBE_FINISH_S)
        except ray.exceptions.RayError as error:
            self._journal.append("scribe_failed", reason=str(error).splitlines()[0])
        self._write_notes()
        fields: dict[str, Any] = {"exit_code": int(finish.exit_code), "reason": finish.reason}
        if finish.step is not None:
            fields["step"] = finish.step
        if finish.culprits:
            fields["culprits"] = finish.culprits
        self._journal.append(finish.state.value, **fields)
        self._gang.end()
        self._groups.give_back_all()
        ray.kill(self._scribe)

    def give_up(self, error: Exception) -> None:
        """The controller itself cannot go on: say so, and leave the machines to their leases."""
        if isinstance(error, StoreDown):  # the checkpoints are in it
            self._journal.append(RunState.STOPPED.value, exit_code=int(error.exit_code), reason=str(error))
            return
        reason = "".join(traceback.format_exception(error)).rstrip()
        self._journal.append("failed", exit_code=int(ExitCode.FAILED), reason=f"the controller failed: {reason}")

    # helpers of both

    def _annotate(self, text: str) -> None:
        """Something to see beside the curves."""
        self._scribe.annotate.remote(text)

    def note(self, news: Sequence[CheckpointNews | TroubleNews]) -> None:
        for one in news:
            self._notes.put(one)

    def _write_notes(self) -> None:
        while not self._notes.empty():
            note = self._notes.get()
            if isinstance(note, TroubleNews):
                fed = {str(one.rank): list(one.samples) for one in note.fed}
                self._journal.append(note.kind, step=note.step, reason=note.describe(), fed=fed)
                continue
            event = "checkpoint_failed" if note.problem else "checkpoint"
            self._journal.append(
                event,
                step=note.step,
                folder=note.folder,
                seconds=round(note.seconds, 3),
                pause_s=round(note.pause_s, 3),
                size_bytes=note.size_bytes,
                **({"reason": note.problem} if note.problem else {}),
            )

    def _renew_leases(self) -> None:
        now = self._clock.monotonic()
        if now - self._leased < LEASE_EVERY_S:
            return
        self._leased = now
        nodes = self._gang.reports
        here = [node for node in nodes if node.identity == host_identity()]
        write_lease(
            self._run_dir.lease,
            generation=self._journal.generation,
            lease_s=self._config.elastic.lease_s,
            address=self._charge.address,
            clock=self._clock,
            pids=[pid for node in here for pid in (node.pid, *(rank.pid for rank in node.ranks if rank.pid))],
            all_here=len(here) == len(nodes),
        )
        if self._scribe is not None:
            self._scribe.renew.remote()

    def _start_scribe(self) -> Any:
        return (
            ray.remote(ScribeActor)
            .options(
                name=self._charge.run.actor_name("scribe"),
                namespace=self._charge.run.namespace,
                lifetime="detached",
                get_if_exists=True,
                num_cpus=0,
                max_restarts=-1,
                max_task_retries=-1,
                max_concurrency=4,  # leases are renewed while a slow W&B finishes
            )
            .remote(self._charge.run.path, self._charge.about, self._config.elastic.lease_s)
        )

    def _stop_wish(self) -> StopWish:
        request = self._run_dir.asked_to_stop()
        if request is None:
            return StopWish.NONE
        if request["at_once"]:
            return StopWish.AT_ONCE
        return StopWish.PREEMPTED if request.get("preempted") else StopWish.AT_BOUNDARY

    def _collective_timeout_s(self) -> float:
        """Ranks that have their batch wait in a collective for one whose store is down."""
        reads_stores = self._config.packed_len is None
        return _COLLECTIVE_TIMEOUT_S + (self._config.data.store.retry_for_s if reads_stores else 0.0)

    def _world_plan(self, nodes: int) -> WorldPlan:
        return resolve_world(self._config, self._charge.facts, nodes * self._config.cluster.ranks_per_node)

    def _bundle(self) -> dict[str, float]:
        """What one node must offer."""
        cluster = self._config.cluster
        threads = resolve_world(self._config, self._charge.facts, cluster.ranks_per_node).cpus_per_rank
        bundle = {"CPU": float(cluster.ranks_per_node * threads)}
        if cluster.device == "cuda":
            bundle["GPU"] = float(cluster.ranks_per_node)
        return bundle


_COLLECTIVE_TIMEOUT_S = 600.0
_SCRIBE_FINISH_S = 60.0


def rank_now(host: str, report: RankReport) -> RankNow:
    return RankNow(
        rank=report.rank,
        host=host,
        local_rank=report.local_rank,
        pid=report.pid,
        state=report.state,
        step=report.step,
        phase=report.phase,
        busy_s=round(report.busy_s, 6),
    )


def start_controller(charge: Charge) -> None:
    """Put a detached controller in charge; it outlives this process."""
    controller = (
        ray.remote(ControllerActor)
        .options(
            name=charge.run.actor_name("controller"),
            namespace=charge.run.namespace,
            lifetime="detached",
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
        )
        .remote(charge)
    )
    try:
        ray.get(controller.pid.remote())
    except ray.exceptions.RayActorError as error:
        raise LonghaulError(f"the controller could not start: {error}", where=str(charge.run.path)) from error
