"""`longhaul chaos`: three runs, one of them broken on purpose, and what they say about each other.

Unbroken, with the planned world throughout; broken; and a reference that goes through the worlds of the broken one
without faults and leaves out the same batches from the beginning."""

import contextlib
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from launch.chaos.draw import draw_faults
from launch.chaos.faults import OF_NUMBERS, Fault, Kind, parse_faults, say_faults
from launch.chaos.hosts import Hosts, check_hosts
from launch.chaos.judge import Runs, Verdict, check_promises, compare, tell_missed
from launch.chaos.machine import Machine
from launch.chaos.possible import Nodes, check_possible, needs_hosts
from launch.chaos.recoveries import measure
from launch.chaos.show import show_verdict
from launch.chaos.strike import Striker
from launch.chaos.trial import Trial, command_of
from launch.loading import load_checked
from launch.run import check_root, check_sources
from launch.screen import Screen
from orchestrator.config.check import replace_values
from orchestrator.config.load import load_config
from orchestrator.config.run import RunConfig
from orchestrator.core.clock import SystemClock
from orchestrator.core.drill import Drill, WrongNumber
from orchestrator.core.errors import BadInput, TrainingFailed
from orchestrator.core.words import ExitCode
from orchestrator.data.ordering.skips import Skips
from orchestrator.storage.publish import publish_json
from orchestrator.tracking.journal import Event, read_events
from orchestrator.tracking.rows import METRICS_FILE, read_rows
from orchestrator.tracking.rundir import RunDir

_POLL_S = 0.01
_LAST_LINES = 20
_ANY_NUMBER = 1_000_000  # failures on purpose are no reason to give up, or to avoid a node
_END_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ChaosWish:
    """`faults` as text, or drawn from a seed."""

    faults: str | None = None
    seed: int = 0
    mtbf_s: float = 30.0
    count: int | None = None
    keep: bool = False


def chaos(
    config_path: Path, overlays: Sequence[Path], sets: Sequence[str], wish: ChaosWish, screen: Screen, *, as_json: bool
) -> ExitCode:
    config = load_checked(config_path, overlays, sets)
    stated = parse_faults(wish.faults) if wish.faults is not None else []
    check_possible(stated, config)
    nodes = Nodes.of(config, stated)
    if needs_hosts(config, stated):
        check_hosts(nodes.most + 1)
    check_sources(config.data)
    folder = Path(config.root) / f"{config.name}-chaos"
    if folder.exists():
        raise BadInput("is there already", where=str(folder), remedy="remove it, or choose another `name=...`")
    check_root(Path(config.root))
    drawn = draw(config, wish) if wish.faults is None else None
    screen.say(f"faults: {say_faults(stated) if drawn is None else f'drawn from seed {wish.seed}'}")
    verdict = Drills(config, folder, nodes, screen, on_hosts=needs_hosts(config, stated)).run(stated, drawn)
    publish_json(folder / "verdict.json", verdict.to_json())
    if as_json:
        print(json.dumps(verdict.to_json()))
    else:
        show_verdict(verdict, screen)
    if verdict.problems or wish.keep:
        screen.say(f"the three runs: {folder}")
    else:
        shutil.rmtree(folder)
    return verdict.exit_code


class Drills:
    """The three runs, one after another, each on machines of its own."""

    def __init__(self, config: RunConfig, folder: Path, nodes: Nodes, screen: Screen, *, on_hosts: bool) -> None:
        self._folder, self._nodes, self._screen, self._on_hosts = folder, nodes, screen, on_hosts
        self._config = replace_values(
            config,
            {
                "root": str(folder),
                "tracking.wandb.mode": "off",
                "checkpoint.store": None,
                "elastic.restart_budget": _ANY_NUMBER,
                "elastic.bad_node_after": _ANY_NUMBER,
            },
        )

    def run(self, stated: Sequence[Fault], drawn: Iterable[Fault] | None) -> Verdict:
        """`drawn`: struck in place of what is stated, for as long as the run lives or they last."""
        unbroken = self._train("unbroken", Trial(config=self._config), None)
        own = [fault for fault in stated if fault.kind in OF_NUMBERS]
        struck_by = drawn if drawn is not None else [fault for fault in stated if fault.kind not in OF_NUMBERS]
        trial = Trial(config=self._config, drill=Drill(wrong=tuple(map(_wrong_number, own))))
        broken = self._train("broken", trial, struck_by)
        events = list(read_events(broken.run_dir.events))
        voided = frozenset(voided_of(broken.run_dir))
        worlds = worlds_of(events, self._config.cluster.ranks_per_node)
        trial = Trial(config=self._config, drill=Drill(worlds=worlds), voided=tuple(sorted(voided)))
        reference = self._train("reference", trial, None)
        same_world = [nodes for _, nodes in worlds] == [self._config.cluster.nodes.max]
        runs = Runs(
            unbroken=unbroken.run_dir,
            broken=broken.run_dir,
            reference=reference.run_dir,
            voided=voided,
            same_world=same_world,
        )
        assert broken.striker is not None
        recoveries = measure(broken.striker.struck, own, events, list(read_rows(broken.run_dir.path / METRICS_FILE)))
        compared = compare(runs, load_config(broken.run_dir.config).config)
        missed = [fault for fault in own if fault not in [recovery.fault for recovery in recoveries]]
        if isinstance(struck_by, Sequence):  # of an endless row nobody expects the end
            missed += struck_by[len(broken.striker.struck) :]
        problems = [*tell_missed(missed), *check_promises(recoveries, self._config), *compared.problems]
        return Verdict(compared=compared, recoveries=tuple(recoveries), problems=tuple(problems))

    def _train(self, name: str, trial: Trial, faults: Iterable[Fault] | None) -> "_Trained":
        """To its end; anything else than an end as planned is told with the last words of the run."""
        self._screen.say(f"{name}: {self._folder / name}")
        with self._stage(self._nodes.most if faults is None else self._nodes.at_start) as stage:
            values = {"name": name, "cluster.address": stage.address}
            trial = Trial(config=replace_values(trial.config, values), drill=trial.drill, voided=trial.voided)
            trial.write(self._folder / ".begin" / name)
            log = self._folder / f"{name}.log"
            process = stage.start(command_of(self._folder / ".begin" / name), log)
            striker = Striker(stage, trial.run_dir, faults, SystemClock()) if faults is not None else None
            try:
                while process.poll() is None:
                    if striker is not None:
                        striker.look()
                    time.sleep(_POLL_S)
            finally:
                end(process)
        if process.returncode != ExitCode.DONE:
            last = "\n".join(log.read_text(errors="replace").splitlines()[-_LAST_LINES:])
            raise TrainingFailed(f"ended with exit code {process.returncode}:\n{last}", where=str(log))
        return _Trained(trial.run_dir, striker)

    def _stage(self, there: int) -> AbstractContextManager[Machine | Hosts]:
        if not self._on_hosts:
            return nullcontext(Machine())
        return Hosts.open(self._config, self._folder, there=there, most=self._nodes.most)


@dataclass(frozen=True, slots=True)
class _Trained:
    run_dir: RunDir
    striker: Striker | None


def end(process: subprocess.Popen[str]) -> None:
    """One that still lives when chaos is interrupted."""
    if process.poll() is not None:
        return
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGKILL):  # the second one does not wait for a checkpoint
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_TIMEOUT_S)
            return


def draw(config: RunConfig, wish: ChaosWish) -> Iterable[Fault]:
    faults = draw_faults(config, wish.seed, wish.mtbf_s, wish.count)
    return list(faults) if wish.count is not None else faults


def worlds_of(events: Iterable[Event], ranks_per_node: int) -> tuple[tuple[int, int], ...]:
    """(step, nodes): with how many nodes each step of the run as it stands was done, from that step on."""
    worlds: list[tuple[int, int]] = []
    for event in events:
        if event["event"] == "started":
            worlds = [world for world in worlds if world[0] < event["step"]]
            worlds.append((event["step"], event["world_size"] // ranks_per_node))
    changes = [
        world for before, world in zip([None, *worlds], worlds, strict=False) if before is None or before[1] != world[1]
    ]
    return tuple(changes)


def voided_of(run_dir: RunDir) -> frozenset[int]:
    return Skips.load(run_dir.skips).voided if run_dir.skips.exists() else frozenset()


def _wrong_number(fault: Fault) -> WrongNumber:
    assert fault.step is not None
    return WrongNumber(
        fault.step, "spike" if fault.kind is Kind.SPIKE else "nan", times=1 if fault.kind is Kind.NAN_ONCE else 0
    )
