"""Peer: one worker of Ray Train V2's TorchTrainer is killed; how long until the next step, and how many steps are lost.

The loop of bare_deepspeed.py with a checkpoint every ten steps, on a Ray started by this command. Imports nothing of
Longhaul; needs ray[train]. Prints {"recovery_s", "steps_lost"} as its last line. Run:

    python benchmarks/ray_train_recovery_peer.py
"""

import argparse
import json
import os
import secrets
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from bare_deepspeed import Sizes, build_engine, import_deepspeed, train_step

WORKERS, STEPS, KILL_AT, SAVE_EVERY = 2, 60, 35, 10
VICTIM = 1
POLL_S = 0.01


def train_on_worker(options: dict[str, Any]) -> None:
    """Goes on from Ray Train's newest checkpoint; each rank tells of every finished step."""
    import ray.train
    import torch
    from ray.train import Checkpoint

    torch.set_num_threads(1)
    import_deepspeed().init_distributed(dist_backend="gloo", verbose=False)
    rank, sizes = ray.train.get_context().get_world_rank(), Sizes.read()
    engine = build_engine(sizes, WORKERS)
    first, kept = 0, ray.train.get_checkpoint()
    if kept is not None:
        with kept.as_directory() as folder:
            engine.load_checkpoint(folder)
            first = engine.global_steps
    draws = torch.Generator().manual_seed(rank)
    with Path(options["told"]).open("a", buffering=1) as told:
        for step in range(first, STEPS):
            shape = (sizes.global_batch // WORKERS, sizes.seq_len + 1)
            train_step(engine, torch.randint(sizes.vocab_size, shape, generator=draws))
            told.write(json.dumps({"t": time.time(), "rank": rank, "pid": os.getpid(), "step": step}) + "\n")
            if step % SAVE_EVERY == SAVE_EVERY - 1:
                folder = f"{options['kept']}/{step}"
                engine.save_checkpoint(folder)
                ray.train.report({"step": step}, checkpoint=Checkpoint.from_directory(folder) if rank == 0 else None)


def read_told(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def kill_one(told: Path, struck: list[float]) -> None:
    """The victim, once it has done its step."""
    while not struck:
        time.sleep(POLL_S)
        due = [row for row in read_told(told) if row["rank"] == VICTIM and row["step"] >= KILL_AT]
        if due:
            struck.append(time.time())
            os.kill(due[-1]["pid"], signal.SIGKILL)


def measure(rows: list[dict[str, Any]], struck: float) -> dict[str, float]:
    """Until the first step that ends in new processes, less what that step takes: until it begins."""
    own = [row for row in rows if row["rank"] == 0]
    before = [row for row in own if row["t"] <= struck]
    pids = {row["pid"] for row in before}
    after = [row for row in own if row["t"] > struck and row["pid"] not in pids]
    step_s = after[1]["t"] - after[0]["t"]
    lost = before[-1]["step"] + 1 - after[0]["step"]
    return {"recovery_s": after[0]["t"] - struck - step_s, "steps_lost": lost}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    os.environ.update(RAY_TRAIN_V2_ENABLED="1", RAY_DISABLE_USAGE_STATS="1")
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    ray.init(num_cpus=WORKERS, include_dashboard=False)
    struck: list[float] = []
    with tempfile.TemporaryDirectory() as work:
        told = Path(work) / "told.jsonl"
        told.touch()
        threading.Thread(target=kill_one, args=(told, struck), daemon=True).start()
        TorchTrainer(
            train_on_worker,
            train_loop_config={"told": str(told), "kept": f"{work}/kept"},
            scaling_config=ScalingConfig(num_workers=WORKERS),
            torch_config=TorchConfig(backend="gloo"),
            run_config=RunConfig(storage_path=f"{work}/ray", failure_config=FailureConfig(max_failures=3)),
        ).fit()
        found = measure(read_told(told), struck[0])
    ray.shutdown()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
