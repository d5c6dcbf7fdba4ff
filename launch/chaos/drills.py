"""The three runs of `longhaul chaos`, one after another, each on a stage of its own: unbroken, with the planned world
throughout; broken; and a reference that goes through the worlds of the broken one without faults and leaves out the
same batches from the beginning. Before judge.py."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from launch.chaos.faults import OF_NUMBERS, Fault, Kind
from launch.chaos.hosts import Hosts
from launch.chaos.machine import Machine
from launch.chaos.possible import Nodes
from launch.chaos.recoveries import Recovery, measure
from launch.chaos.stage import Stage
from launch.chaos.strike import Striker, Struck
from launch.chaos.trial import Trial, command_of
from launch.screen import Screen
from orchestrator.config.check import replace_values
from orchestrator.config.run import RunConfig
from orchestrator.core.clock import SystemClock
from orchestrator.core.drill import Drill, WrongNumber
from orchestrator.core.errors import TrainingFailed
from orchestrator.core.words import ExitCode
from orchestrator.data.ordering.skips import Skips
from orchestrator.tracking.journal import Event, read_events
from orchestrator.tracking.rows import METRICS_FILE, read_rows
from orchestrator.tracking.rundir import RunDir

_POLL_S = 0.01
_LAST_LINES = 20
_END_TIMEOUT_S = 30.0
_ANY_NUMBER = 1_000_000  # failures on purpose are no reason to give up, or to avoid a node
_SETTINGS: dict[str, Any] = {
    "tracking.wandb.mode": "off",
    "checkpoint.store": None,
    "elastic.restart_budget": _ANY_NUMBER,
    "elastic.bad_node_after": _ANY_NUMBER,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """`faults` without an end are struck for as long as the run lives."""

    config: RunConfig
    folder: Path
    faults: Iterable[Fault]
    nodes: Nodes
    on_hosts: bool

    @property
    def own(self) -> list[Fault]:
        """What ranks do to themselves."""
        return [] if not isinstance(self.faults, Sequence) else [f for f in self.faults if f.kind in OF_NUMBERS]

    @property
    def from_outside(self) -> Iterable[Fault]:
        if not isinstance(self.faults, Sequence):
            return self.faults
        return [fault for fault in self.faults if fault.kind not in OF_NUMBERS]


@dataclass(frozen=True, kw_only=True, slots=True)
class Runs:
    """What is compared. `voided`: steps that the broken run left out; `same_world`: as in the unbroken run, always.
    `failed`: the broken run, or the reference, did not come to its end, and how; then there is nothing to compare."""

    unbroken: RunDir
    broken: RunDir
    reference: RunDir
    voided: frozenset[int]
    same_world: bool
    recoveries: tuple[Recovery, ...]
    missed: tuple[Fault, ...]
    failed: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """`failed`: the last words of a run that did not come to its end."""

    struck: list[Struck]
    failed: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Broken:
    """A run that went through its faults, and what it says of them. `failed`: as of Ended."""

    run_dir: RunDir
    events: list[Event]
    struck: list[Struck]
    recoveries: list[Recovery]
    failed: str


def train_all(plan: Plan, screen: Screen) -> Runs:
    config = settle(plan)
    unbroken = Trial(config=replace_values(config, {"name": "unbroken"}))
    ended = _train(unbroken, plan, screen)
    if ended.failed:
        raise TrainingFailed(ended.failed, where=str(unbroken.run_dir.path))
    broken = train_broken(plan, screen)
    voided = Skips.load(broken.run_dir.skips).voided if broken.run_dir.skips.exists() else frozenset[int]()
    worlds = worlds_of(broken.events, config.cluster.ranks_per_node)
    drill, left_out = Drill(worlds=worlds), tuple(sorted(voided))
    reference = Trial(config=replace_values(config, {"name": "reference"}), drill=drill, voided=left_out)
    failed = broken.failed or _train(reference, plan, screen).failed
    return Runs(
        unbroken=unbroken.run_dir,
        broken=broken.run_dir,
        reference=reference.run_dir,
        voided=voided,
        same_world=[nodes for _, nodes in worlds] == [config.cluster.nodes.max],
        recoveries=tuple(broken.recoveries),
        missed=tuple(missed_of(plan, broken)),
        failed=failed,
    )


def train_broken(plan: Plan, screen: Screen) -> Broken:
    wrong = tuple(_wrong_number(fault) for fault in plan.own)
    trial = Trial(config=replace_values(settle(plan), {"name": "broken"}), drill=Drill(wrong=wrong))
    ended = _train(trial, plan, screen, plan.from_outside)
    events, rows = list(read_events(trial.run_dir.events)), list(read_rows(trial.run_dir.path / METRICS_FILE))
    return Broken(
        run_dir=trial.run_dir,
        events=events,
        struck=ended.struck,
        recoveries=measure(ended.struck, plan.own, events, rows),
        failed=ended.failed,
    )


def settle(plan: Plan) -> RunConfig:
    """What all three runs have in common."""
    return replace_values(plan.config, {"root": str(plan.folder), **_SETTINGS})


def _train(trial: Trial, plan: Plan, screen: Screen, faults: Iterable[Fault] | None = None) -> Ended:
    """To its end, while faults are struck."""
    screen.say(f"{trial.run_dir.path.name}: {trial.run_dir.path}")
    begin, log = plan.folder / ".begin" / trial.run_dir.path.name, trial.run_dir.path.with_suffix(".log")
    with _open_stage(plan, plan.nodes.most if faults is None else plan.nodes.at_start) as stage:
        replace(trial, config=replace_values(trial.config, {"cluster.address": stage.address})).write(begin)
        process = stage.start(command_of(begin), log)
        striker = Striker(stage, trial.run_dir, faults or [], SystemClock())
        try:
            while process.poll() is None:
                striker.look()
                time.sleep(_POLL_S)
        finally:
            _end(process)
    return Ended(struck=striker.struck, failed=_last_words(trial.run_dir, process.returncode, log))


def _last_words(run_dir: RunDir, returncode: int, log: Path) -> str:
    if returncode == ExitCode.DONE:
        return ""
    last = "\n".join(log.read_text(errors="replace").splitlines()[-_LAST_LINES:])
    return f"the {run_dir.path.name} run has ended with {returncode}, see {log}:\n{last}"


def _open_stage(plan: Plan, there: int) -> AbstractContextManager[Stage]:
    if plan.on_hosts:
        return Hosts.open(plan.config, plan.folder, there=there, most=plan.nodes.most)
    if plan.config.cluster.address == "local":
        return nullcontext(Machine())
    from launch.chaos.there import There  # here, since Ray takes long to import

    return There.open(plan.config.cluster.address)


def _end(process: subprocess.Popen[str]) -> None:
    """A run that lives when chaos is interrupted; the second signal does not wait for a checkpoint."""
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_TIMEOUT_S)


def worlds_of(events: Iterable[Event], ranks_per_node: int) -> tuple[tuple[int, int], ...]:
    """(step, nodes): with how many nodes the steps of the run as it stands were done, from that one on."""
    worlds: list[tuple[int, int]] = []
    for event in events:
        if event["event"] == "started":
            worlds = [world for world in worlds if world[0] < event["step"]]
            worlds.append((event["step"], event["world_size"] // ranks_per_node))
    return tuple(world for before, world in pairwise([(0, 0), *worlds]) if before[1] != world[1])


def missed_of(plan: Plan, broken: Broken) -> list[Fault]:
    """What the run ended before; of an endless row nobody expects the end."""
    came = [recovery.fault for recovery in broken.recoveries]
    missed = [fault for fault in plan.own if fault not in came]
    if isinstance(plan.from_outside, Sequence):
        missed += plan.from_outside[len(broken.struck) :]
    return missed


def _wrong_number(fault: Fault) -> WrongNumber:
    assert fault.step is not None
    times = 1 if fault.kind is Kind.NAN_ONCE else 0
    return WrongNumber(fault.step, "spike" if fault.kind is Kind.SPIKE else "nan", times=times)
