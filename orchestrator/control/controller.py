"""The controller of one run: a detached actor that observes, decides (control/policy.py) and acts (control/acting.py).

It alone appends to the journal, and writes each decision down before acting on it. When it dies, Ray starts it again:
it claims the next generation and adopts the ranks that are still running."""

import logging
import os
import threading
import time
import traceback
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import ray
from ray.exceptions import ActorAlreadyExistsError, RayActorError

from orchestrator.checkpoint.shelf import open_shelf
from orchestrator.config.load import load_config
from orchestrator.config.resolve import resolve_world
from orchestrator.control.acting import Acting, Tools
from orchestrator.control.bell import Bell
from orchestrator.control.charge import Charge, bundle_of, limits_of
from orchestrator.control.decisions import Finish
from orchestrator.control.gang import Gang
from orchestrator.control.group import Groups, ReadyNode, Wish, remove_groups
from orchestrator.control.jobs import Notice, PreparerReport
from orchestrator.control.logs import keep_output
from orchestrator.control.membership import find_shunned
from orchestrator.control.notes import Note
from orchestrator.control.policy import Phase, State, decide, is_calm
from orchestrator.control.preparer import Preparation
from orchestrator.control.recall import recall
from orchestrator.control.renewal import Renewal, find_family
from orchestrator.control.scribe import ScribeActor
from orchestrator.control.seen import NodeSeen, OfferedNode, Seen, StopWish, Suspicion
from orchestrator.control.showing import Showing
from orchestrator.control.start import StartSearch
from orchestrator.control.succession import give_back_rest, is_replaced, make_way
from orchestrator.core.clock import SystemClock
from orchestrator.core.errors import LonghaulError, StoreDown, Superseded
from orchestrator.core.words import ExitCode, RunState
from orchestrator.data.shards.manifest import Manifest
from orchestrator.tracking.journal import Journal, read_events
from orchestrator.tracking.lease import host_identity, write_lease
from orchestrator.tracking.rundir import RunDir
from orchestrator.tracking.told import count_told_steps, measure_pace

log = logging.getLogger(__name__)
# The longest between two looks round. What is in a hurry rings: all but time that runs out, and what a preparer says
CALM_S, BUSY_S = 1.0, 0.05  # in training, and otherwise
STOP_LOOK_S = 0.2  # between looks for a wish to stop
# Whatever other node is lost, what is kept on the head lives on, and without it there is no cluster. A little of a
# resource that only it has, as Ray passes over a soft affinity of actors that need nothing
ON_HEAD = {"node:__internal_head__": 0.0001}
DRAINED_FOR_S = 300.0  # a machine that was to go by then and is still there, or there again, may be used


class ControllerActor:
    """The Ray actor: runs the loop in a thread, so that it answers calls meanwhile."""

    def __init__(self, charge: Charge) -> None:
        keep_output(RunDir(charge.run.path).logs, "controller")
        self._run_handle, self._controller = charge.run, Controller(charge)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._controller.run()
        except Superseded:
            log.exception("another controller has taken over")
            if not is_replaced(self._run_handle):  # it is of another cluster, and has no use for what this one keeps
                self._controller.give_back()
        except Exception as error:  # the boundary: whatever went wrong must be in the journal
            log.exception("the controller cannot go on")
            self._controller.give_up(error)
        finally:
            ray.kill(ray.get_runtime_context().current_actor)

    def note(self, news: Sequence[Note]) -> None:
        self._controller.note(news)

    def pid(self) -> int:
        return os.getpid()


class Controller:
    def __init__(self, charge: Charge) -> None:
        self._charge, self._run_dir, self._clock = charge, RunDir(charge.run.path), SystemClock()
        self._config = load_config(self._run_dir.config).config
        self._limits = limits_of(charge.run, self._config)
        bundle = bundle_of(self._config, charge.facts)
        self._bell = Bell()
        self._gang, self._groups = Gang(charge.run, self._config, self._bell), Groups(charge.run, bundle, self._bell)
        count_told = partial(count_told_steps, self._run_dir.path, with_keys=self._config.data.ledger == "keys")
        pace = partial(measure_pace, self._run_dir.path)
        self._search = StartSearch(open_shelf(self._config, self._run_dir.checkpoints), count_told, pace, self._bell)
        self._showing = Showing(self._run_dir, self._clock, bundle, self._limits)
        self._in_charge = threading.Event()  # only then is there a journal
        self._renewal = Renewal()
        self._preparation: Preparation | None = None  # while data is still being prepared

    # observe -> decide -> act

    def run(self) -> None:
        """Take charge, then tick until the run has ended."""
        before = self._run_dir.view()
        if before.state.ended and before.generation > self._charge.after_generation:
            self.give_back()  # this actor came back only to find its work done
            return
        state = self._take_charge(begins_anew=before.state.ended)
        threading.Thread(target=self._ring_when_asked_to_stop, daemon=True).start()
        phase, version = None, self._bell.version
        while state.phase is not Phase.ENDED:
            if state.phase is phase:
                self._bell.wait(version, self._longest_pause_s(state))
            version = self._bell.version  # before what it stands for: what changes meanwhile is looked at again
            phase, seen = state.phase, self._observe(state)
            state, decisions = decide(state, seen, self._clock.monotonic(), self._limits)
            for decision in decisions:
                if isinstance(decision, Finish) and self._preparation is not None:
                    self._preparation.end()
                self._acting.act(decision)

    def _longest_pause_s(self, state: State) -> float:
        if not is_calm(state) or self._preparation is not None:
            return BUSY_S
        return min(CALM_S, self._gang.patience_s)

    def _take_charge(self, *, begins_anew: bool) -> State:
        """Adopt what an earlier controller left running; where nothing is left, begin by waiting."""
        recalled = recall(read_events(self._run_dir.events), self._clock.now() - self._clock.monotonic())
        charge = self._charge
        about = {"address": charge.address, "charge": charge.name}
        journal = Journal.claim(self._run_dir.events, self._clock, after=charge.after_generation, **about)
        adopted = not begins_anew and self._gang.adopt(recalled.world)
        if adopted and recalled.is_broken:  # whether all have heard so is not known
            self._gang.abort(recalled.world, recalled.generation)
        if not adopted:  # what still lies in them is about to end, and to remove them
            remove_groups(self._charge.run)
        self._groups.start()
        world = recalled.world if adopted else ()
        tools = Tools(journal, self._gang, self._groups, self._search, self._start_scribe(), self._bell)
        self._acting = Acting(
            self._config, self._charge.facts, self._limits.drill, self._clock, tools,
            world=world, generation=recalled.generation, bounds=recalled.bounds,
        )  # fmt: skip
        self._in_charge.set()
        self._renew_leases()
        if Manifest.load(self._run_dir.manifest).segments_to_come:
            cpus = resolve_world(self._config, self._charge.facts, self._limits.ranks_per_node).prepare_cpus
            self._preparation = Preparation(self._charge.run, cpus, self._config.elastic)
        if world:
            journal.append("adopted", node_actors=self._gang.node_actors)
            self._acting.annotate("a new controller has taken over the running ranks")
        failures = () if begins_anew else tuple(recalled.failures)
        state = State(
            phase=Phase.WAITING,
            since=self._clock.monotonic(),
            step=recalled.step,
            failures=failures,
            longest_start_s=None if begins_anew else recalled.longest_start_s,
        )
        if world and recalled.is_broken:
            return replace(state, phase=Phase.ABORTING, world=world, why="fault")
        training = replace(state, phase=Phase.TRAINING, world=world, starting_since=recalled.starting_since)
        return training if world else state

    def _observe(self, state: State) -> Seen:
        self._renew_leases()
        suspicions = self._acting.write_notes()
        notices = self._find_notices()
        nodes = self._gang.beat(notices)
        self._acting.greet(nodes)
        self._wish_for_nodes(state, nodes, notices)
        look = self._groups.look
        offered = self._find_offered(look.ready)
        self._showing.show(self._acting.journal.generation, state, nodes, len(offered), look.offers)
        return Seen(
            generation=self._acting.generation,
            nodes=nodes,
            offered=offered,
            start_step=self._search.found_step,
            suspicions=[Suspicion(fed.rank, news.step) for news in suspicions for fed in news.fed],
            stop=self._stop_wish(),
            why_waiting=self._showing.why_waiting,
            unprepared=self._look_at_preparing(),
        )

    def _wish_for_nodes(self, state: State, nodes: Sequence[NodeSeen], notices: Collection[str]) -> None:
        """While it is not known where an earlier controller's node actors are, none of the groups may be removed."""
        used = self._gang.node_ids
        shunned = find_shunned(nodes, state.avoided, self._limits).union(notices) if used is not None else ()
        can_ask = used is None or self._clock.monotonic() >= self._acting.ask_after
        total = self._limits.max_nodes + self._limits.spare_nodes if can_ask else 0
        self._groups.wish(Wish(total, used or frozenset(), frozenset(shunned)))

    def _find_offered(self, ready: Sequence[ReadyNode]) -> list[OfferedNode]:
        used = self._gang.node_ids
        if used is None:
            return []
        return [OfferedNode(node.node_id, node.host) for node in ready if node.node_id not in used]

    def _find_notices(self) -> dict[str, Notice]:
        """By host: what people and the cluster say of machines that are about to go."""
        look, now = self._groups.look, self._clock.now()
        asked = {
            look.hosts.get(node, node): Notice(reason="its node is being drained", until=until)
            for node, until in self._run_dir.drained_nodes().items()
            if now < until + DRAINED_FOR_S
        }
        return {**look.draining, **asked}

    def _look_at_preparing(self) -> PreparerReport | None:
        """What has changed is written down. The report, if preparing has failed."""
        if self._preparation is None:
            return None
        for event, fields in self._preparation.look():
            self._acting.journal.append(event, **fields)
        return self._preparation.failed

    def _ring_when_asked_to_stop(self) -> None:
        """A file is all that says so. It is written anew when people get impatient."""
        request, heard = self._run_dir.stop_request, 0
        while True:
            with suppress(FileNotFoundError):
                if (written := request.stat().st_mtime_ns) != heard:
                    heard = written
                    self._bell.ring()
            time.sleep(STOP_LOOK_S)

    def _stop_wish(self) -> StopWish:
        request = self._run_dir.asked_to_stop()
        if request is None:
            return StopWish.NONE
        if request["at_once"]:
            return StopWish.AT_ONCE
        return StopWish.PREEMPTED if request.get("preempted") else StopWish.AT_BOUNDARY

    # being in charge

    def note(self, news: Sequence[Note]) -> None:
        self._in_charge.wait()
        self._acting.note(news)

    def give_back(self) -> None:
        """All that this cluster keeps for the run."""
        if self._in_charge.is_set():
            self._acting.give_back()
        else:
            self._gang.adopt(())
            self._gang.end()
            give_back_rest(self._charge.run)

    def give_up(self, error: Exception) -> None:
        """The controller itself cannot go on: say so, and give everything back."""
        if not self._in_charge.is_set():
            return  # nothing has happened that somebody could wait for
        journal = self._acting.journal
        if isinstance(error, StoreDown):  # the checkpoints are in it
            journal.append(RunState.STOPPED.value, exit_code=int(error.exit_code), reason=str(error))
        else:
            reason = "".join(traceback.format_exception(error)).rstrip()
            journal.append("failed", exit_code=int(ExitCode.FAILED), reason=f"the controller failed: {reason}")
        self.give_back()

    def _renew_leases(self) -> None:
        family = find_family(self._gang.reports, len(self._gang.node_actors), host_identity())
        if not self._renewal.is_due(family, self._clock.monotonic()):
            return
        self._acting.journal.refuse_if_superseded()
        write_lease(
            self._run_dir.lease,
            generation=self._acting.journal.generation,
            lease_s=self._config.elastic.lease_s,
            address=self._charge.address,
            clock=self._clock,
            pids=family.pids,
            all_here=family.all_here,
        )
        self._acting.renew_scribe()

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
                resources=ON_HEAD,
            )
            .remote(self._charge.run.path, self._charge.about, self._config.elastic.lease_s)
        )


def start_controller(charge: Charge) -> None:
    """Put a detached controller in charge; it outlives this process."""
    if make_way(charge.run):  # it may have claimed more
        charge = replace(charge, after_generation=RunDir(charge.run.path).view().generation)
    options = ray.remote(ControllerActor).options(
        name=charge.run.actor_name("controller"),
        namespace=charge.run.namespace,
        lifetime="detached",
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=-1,
        resources=ON_HEAD,
    )
    try:
        ray.get(options.remote(charge).pid.remote())
    except ActorAlreadyExistsError as error:
        remedy = "another command resumes it at this moment: `longhaul resume` follows it"
        raise LonghaulError("the run has got a controller", where=str(charge.run.path), remedy=remedy) from error
    except RayActorError as error:
        raise LonghaulError(f"the controller could not start: {error}", where=str(charge.run.path)) from error
