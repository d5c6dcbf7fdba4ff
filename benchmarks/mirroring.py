"""What keeping the state in memory of two nodes costs: steps with snapshots that are mirrored, beside steps without.

Two ranks on two made-up nodes of this machine, each with a vault process of its own, which is the other's buddy; the
quickstart's model and batches, snapshots as often as `checkpoint.snapshot_every: auto` has it. Two trainers in the same
processes take turns, some steps at a time; what a turn has left to the vaults (checksums, sending, keeping) is waited
for at its end, and counts. The CPU seconds of both vault processes are stated apart. Keep the machine quiet. Run:

    python benchmarks/mirroring.py [--turns 12]
"""

import argparse
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from step_time import NoSink, bootstrap_interval, make_run, make_trainer, read_config
from torch.distributed import FileStore  # type: ignore[attr-defined]

from launch.cluster import reached_cluster
from orchestrator.config.resolve import WorldPlan
from orchestrator.control.home import VaultHome
from orchestrator.control.jobs import RunHandle, VaultAddress, VaultDoor
from orchestrator.control.nursery import NurseryAddress, start_nursery
from orchestrator.control.vaulted import RankVault
from orchestrator.core.words import Word, World
from orchestrator.tracking.rundir import RunDir
from orchestrator.train.engine import join_world, warm
from orchestrator.train.loop import Trainer

NODES, STAGE = 2, 2
TURN = 20  # steps
START_TIMEOUT_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=12, help="of each of the two")
    turns = parser.parse_args().turns
    with tempfile.TemporaryDirectory(prefix="mirroring-") as folder:
        config = read_config(Path(folder), (turns + 1) * TURN, STAGE)
        run_dir = RunDir(Path(config.root) / config.name)
        with reached_cluster(config, run_dir.path, trains=False) as cluster, cluster.connected():
            plan = make_run(config, run_dir)
        run_dir.logs.mkdir()
        nursery = NurseryAddress.invent("cpu")
        process = start_nursery(nursery, run_dir.logs, {})
        try:
            run = RunHandle(path=run_dir.path, key=run_dir.key)
            homes = [VaultHome(run, "127.0.0.1", 1, nursery) for _ in range(NODES)]
            show(*measure(run_dir, plan, turns, [home.door(0) for home in homes], find_addresses(homes)))
        finally:
            process.kill()
            process.wait()


def find_addresses(homes: list[VaultHome]) -> list[tuple[VaultAddress, int]]:
    """And the pids behind them, when all are there."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        found = [(home.address, home.pid) for home in homes if home.address is not None]
        if len(found) == NODES:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError("the vaults do not come up")
        time.sleep(0.1)


def measure(
    run_dir: RunDir, plan: WorldPlan, turns: int, doors: list[VaultDoor], vaults: list[tuple[VaultAddress, int]]
) -> tuple[Any, int, float]:
    """Seconds of each pair of turns (without, with), snapshots taken, CPU seconds of the vaults."""
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    buddies = [vaults[(rank + 1) % NODES][0] for rank in range(NODES)]
    pids = [pid for _, pid in vaults]
    ranks = [
        context.Process(target=be_rank, args=(rank, run_dir, plan, turns, doors[rank], buddies[rank], pids, theirs))
        for rank in range(NODES)
    ]
    for rank in ranks:
        rank.start()
    theirs.close()
    try:
        told: tuple[Any, int, float] = ours.recv()
        return told
    finally:
        for rank in ranks:
            rank.join(timeout=30.0)
            rank.kill()


def be_rank(
    rank: int,
    run_dir: RunDir,
    plan: WorldPlan,
    turns: int,
    door: VaultDoor,
    buddy: VaultAddress,
    pids: list[int],
    pipe: Any,
) -> None:
    world = World.flat(rank, NODES)
    warm("cpu", threads=1)
    join_world(world, "cpu", FileStore(str(run_dir.path / "store"), NODES), timeout_s=600.0)
    vault = RankVault(door, generation=1, buddy=buddy, committed=None)
    kept = make_trainer(run_dir, plan, world, NoSink(), vault)
    plain = make_trainer(run_dir, plan, world, NoSink(), None, {"checkpoint.snapshot_every": None})
    seconds, taken = np.zeros((turns + 1, 2)), []
    for turn in range(turns + 1):  # the first one does not count
        if turn == 1:
            taken, spent_s = [], cpu_seconds(pids)
        for way in (0, 1) if turn % 2 else (1, 0):
            torch.distributed.barrier()
            began = time.perf_counter()
            taken += take_turn((plain, kept)[way])
            seconds[turn, way] = time.perf_counter() - began
    spent_s = cpu_seconds(pids) - spent_s
    if rank == 0:
        pipe.send((seconds[1:], len(taken), spent_s))
    plain.close()
    kept.close()
    vault.close()


def take_turn(trainer: Trainer) -> list[int]:
    """The steps after which a snapshot was taken."""
    taken = []
    for _ in range(TURN):
        trainer.train_step()
        was_busy = trainer.saver.is_busy
        trainer.keep(Word.GO_ON)
        if trainer.saver.is_busy and not was_busy:
            taken.append(trainer.step)
    trainer.saver.settle()
    return taken


def cpu_seconds(pids: list[int]) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(one.user + one.system for one in times)


def show(seconds: Any, snapshots: int, spent_s: float) -> None:
    plain, kept = seconds.T
    low, high = bootstrap_interval(kept, plain)
    steps = len(plain) * TURN
    print(f"{len(plain)} pairs of turns of {TURN} steps, {snapshots} snapshots, ZeRO-{STAGE}")
    ratio = np.median(kept) / np.median(plain)
    print(f"without {np.median(plain):.3f} s, with {np.median(kept):.3f} s: ratio {ratio:.4f}")
    print(f"interval {low:.4f} to {high:.4f}; of all turns {kept.sum() / plain.sum():.4f} (at most 1.01 asked)")
    print(f"CPU of the vaults: {spent_s / steps:.5f} s a step, {spent_s / NODES / plain.sum():.2%} of a core a node")


if __name__ == "__main__":
    main()
