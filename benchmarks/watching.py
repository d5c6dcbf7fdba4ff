"""What it costs to be watched: steps of a run beside everything that is no rank of it, and steps of its ranks alone.

The quickstart's model on one node, by `longhaul run` on a Ray of its own, without spares and with one. Two ranks of one
thread fill the two cores of the machine, so that whatever else runs takes its time from steps; one leaves a core to it,
as ranks do that wait for a GPU.
In every second turn all of ours that is no rank (node actor, controller, scribe, vault, spares, keeper, and the command
that follows) is stopped by a signal. Ranks do the same in both: leases outlast a turn, news wait in a socket meanwhile,
and there are neither snapshots (mirroring.py has them) nor checkpoints. The beginning of a turn, when what has waited
is carried, does not count. CPU seconds are those of turns in which nothing is stopped. Controller, scribe and node
actor are actors of Ray: what such a process costs that does nothing at all is measured beside it. Keep the machine
quiet. Run:

    python benchmarks/watching.py [--pairs 40] [--ranks 2] [--spares 0,1]
"""

import argparse
import os
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import psutil
import ray
from bare_deepspeed import QUICKSTART
from quickstart import LONGHAUL
from rich.console import Console
from rich.table import Table
from step_time import Series, bootstrap_interval

from orchestrator.control.jobs import RankState
from orchestrator.tracking.now import RankNow, read_now
from orchestrator.tracking.rows import read_metrics
from orchestrator.tracking.rundir import RunDir

WARM_UP = 10  # steps
SETTINGS = [
    "evaluate.every_steps=null", "checkpoint.every_steps=null", "checkpoint.keep.best=0", "schedule.name=constant",
    "checkpoint.snapshot_every=null", "schedule.warmup_steps=0", "data.prefetch_bytes=1", "train.steps=1000000",
    "tracking.wandb.mode=offline", "elastic.heartbeat_timeout_s=30", "elastic.lease_s=60", "cluster.cpus_per_rank=1",
]  # fmt: skip
SETTLE_S, TURN_S = 1.0, 5.0
IDLE_SETTLE_S, IDLE_S = 5.0, 20.0
START_TIMEOUT_S, END_TIMEOUT_S = 300.0, 30.0
MOST = 1.01
ALONE, WATCHED = 0, 1
GO_ON = ("ranks", "Ray", "nursery and store")  # the last of them sleep all the time
MODULES = {"launch.local": "keeper", "orchestrator.control.nursery": "nursery and store"}

Parts = Mapping[str, Sequence[psutil.Process]]


@dataclass(frozen=True)
class Measured:
    """Seconds a step, by pair, and CPU seconds a step, by part of the run."""

    spares: int
    alone: Series
    watched: Series
    cpu_s: Mapping[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--spares", default="0,1", help="a node; a run for each number")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="watching-") as folder:
        spares = map(int, options.spares.split(","))
        show([measure(Path(folder), options.ranks, number, options.pairs) for number in spares])
        idle_s = measure_idle_actor(Path(folder) / "ray")
    print(f"a second of an actor of Ray that does nothing: {idle_s:.5f} CPU seconds")


def measure_idle_actor(folder: Path) -> float:
    """In a Ray of its own; the median of three."""
    ray.init("local", num_cpus=1, include_dashboard=False, logging_level="error", _temp_dir=str(folder))
    try:
        actors = [ray.remote(Idle).options(num_cpus=0).remote() for _ in range(3)]
        processes = [psutil.Process(pid) for pid in ray.get([actor.pid.remote() for actor in actors])]
        time.sleep(IDLE_SETTLE_S)
        before = [sum(process.cpu_times()[:2]) for process in processes]
        time.sleep(IDLE_S)
        after = [sum(process.cpu_times()[:2]) for process in processes]
    finally:
        ray.shutdown()
    return float(np.median(np.subtract(after, before))) / IDLE_S


class Idle:
    def pid(self) -> int:
        return os.getpid()


def measure(folder: Path, num_ranks: int, spares: int, pairs: int) -> Measured:
    run_dir, log = RunDir(folder / f"spares{spares}"), folder / f"spares{spares}.log"
    places = [f"root={folder}", f"data.work={folder}/work", f"data.train.0.path={folder}/demo"]
    own = [f"name={run_dir.path.name}", f"cluster.ranks_per_node={num_ranks}", f"cluster.spares={spares}"]
    line = [LONGHAUL, "run", str(QUICKSTART), *places, *own, *SETTINGS]
    with log.open("w") as output:
        command = psutil.Popen(line, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        ranks = wait_until_it_trains(command, run_dir, num_ranks, spares, log)
        parts = find_parts(command, run_dir, ranks)
        windows, spent = take_turns(parts, pairs)
        time.sleep(TURN_S)  # the last rows are on their way
        told = np.array([row["t"] for row in read_metrics(run_dir.path)])
    finally:
        end(command)
    seconds = np.array([[seconds_a_step(told, *window) for window in pair] for pair in windows])
    steps = sum(len(find_inside(told, *pair[WATCHED])) for pair in windows)
    return Measured(spares, seconds[:, ALONE], seconds[:, WATCHED], {name: s / steps for name, s in spent.items()})


def wait_until_it_trains(
    command: psutil.Popen, run_dir: RunDir, num_ranks: int, spares: int, log: Path
) -> Sequence[RankNow]:
    """All of its ranks, when those that stand by are warm."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while command.poll() is None and time.monotonic() < deadline:
        now = read_now(run_dir.path)
        ranks = now.ranks if now is not None else []
        warm = [rank for rank in ranks if rank.step >= WARM_UP or rank.state == RankState.READY]
        if len(warm) == num_ranks + spares and sum(rank.rank is not None for rank in ranks) == num_ranks:
            return ranks
        time.sleep(0.5)
    raise SystemExit(f"the run does not train:\n{log.read_text()[-3000:]}")


def find_parts(command: psutil.Process, run_dir: RunDir, ranks: Sequence[RankNow]) -> Parts:
    parts = {"command": [command]}
    known = {rank.pid: "spares" if rank.rank is None else "ranks" for rank in ranks}
    for process in command.children(recursive=True):
        parts.setdefault(known.get(process.pid) or name_part(process, run_dir), []).append(process)
    return parts


def name_part(process: psutil.Process, run_dir: RunDir) -> str:
    """By the log that it writes, or by what it runs."""
    log = Path(f"/proc/{process.pid}/fd/1").readlink()
    if log.parent == run_dir.logs:
        return log.stem.partition("-")[0]
    line = " ".join(process.cmdline())
    return next((part for module, part in MODULES.items() if module in line), "Ray")


def take_turns(parts: Parts, pairs: int) -> tuple[list[list[tuple[float, float]]], Counter[str]]:
    """From when to when each turn counts, by pair; and CPU seconds of the watched ones."""
    others = [process for part, some in parts.items() if part not in GO_ON for process in some]
    windows, spent = [[(0.0, 0.0)] * 2 for _ in range(pairs)], Counter[str]()
    for pair in range(pairs):
        for way in (WATCHED, ALONE) if pair % 2 else (ALONE, WATCHED):
            with held_still(others if way == ALONE else ()):
                time.sleep(SETTLE_S)
                before, began = cpu_seconds(parts), time.time()
                time.sleep(TURN_S)
                after, windows[pair][way] = cpu_seconds(parts), (began, time.time())
            for part, some in parts.items() if way == WATCHED else ():
                spent[part] += sum(after[process] - before[process] for process in some if process in after)
    return windows, spent


@contextmanager
def held_still(processes: Sequence[psutil.Process]) -> Iterator[None]:
    try:
        for process in processes:
            process.suspend()
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def cpu_seconds(parts: Parts) -> dict[psutil.Process, float]:
    """Of those that live: idle workers of Ray end."""
    found = {}
    for process in chain.from_iterable(parts.values()):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found[process] = times.user + times.system
    return found


def find_inside(told: Series, begin: float, until: float) -> Series:
    return told[(told >= begin) & (told < until)]


def seconds_a_step(told: Series, begin: float, until: float) -> float:
    inside = find_inside(told, begin, until)
    if len(inside) < 2:
        raise SystemExit("turns are too short for these steps")
    return float(inside[-1] - inside[0]) / (len(inside) - 1)


def end(command: psutil.Popen) -> None:
    """The run ends as by Ctrl-C, its Ray after it; what does not is killed."""
    family = [command, *command.children(recursive=True)] if command.poll() is None else []
    for number in (signal.SIGINT, signal.SIGINT):
        if command.poll() is None:
            command.send_signal(number)
            psutil.wait_procs([command], END_TIMEOUT_S)
    for process in psutil.wait_procs(family, END_TIMEOUT_S)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def show(found: Sequence[Measured]) -> None:
    for one in found:
        low, high = bootstrap_interval(one.watched, one.alone)
        alone, watched = np.median(one.alone), np.median(one.watched)
        print(f"{one.spares} spares, {len(one.alone)} pairs of turns of {TURN_S:g} s, at most {MOST} asked")
        print(f"alone {alone:.4f} s a step, watched {watched:.4f} s: ratio {watched / alone:.4f}")
        print(f"interval {low:.4f} to {high:.4f}; of all turns {one.watched.sum() / one.alone.sum():.4f}")
    table = Table("CPU seconds a step", *(f"{one.spares} spares" for one in found))
    for part in dict.fromkeys(part for one in found for part in one.cpu_s):
        table.add_row(part, *(f"{one.cpu_s[part]:.5f}" if part in one.cpu_s else "" for one in found))
    ours = [sum(seconds for part, seconds in one.cpu_s.items() if part not in ("ranks", "Ray")) for one in found]
    table.add_row("all but ranks and Ray", *(f"{seconds:.5f}" for seconds in ours))
    Console().print(table)


if __name__ == "__main__":
    main()
