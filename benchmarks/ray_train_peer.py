"""Peer: the loop of bare_deepspeed.py through Ray Train V2's TorchTrainer, on a Ray started by this command.

Imports nothing of Longhaul; needs ray[train]. Run it, for example, by

    python benchmarks/ray_train_peer.py --steps 2 --first-step /tmp/first.json
"""

import argparse
import os
import secrets
import tempfile
from pathlib import Path
from typing import Any

from bare_deepspeed import Sizes, import_deepspeed, train, write_first_step

WORKERS = 2


def train_on_worker(options: dict[str, Any]) -> None:
    """What each worker of the trainer runs. The process group is made by Ray Train; DeepSpeed takes it over."""
    import ray.train
    import torch

    torch.set_num_threads(1)
    import_deepspeed().init_distributed(dist_backend="gloo", verbose=False)
    rank = ray.train.get_context().get_world_rank()
    first_step = options["first_step"]
    told = write_first_step(Path(first_step) if first_step else None, rank)
    train(Sizes.read(), rank, WORKERS, options["steps"], told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--first-step", type=Path, help="file for the wall time of the first finished update")
    options = parser.parse_args()

    os.environ.update(RAY_TRAIN_V2_ENABLED="1", RAY_DISABLE_USAGE_STATS="1")
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    ray.init(num_cpus=WORKERS, include_dashboard=False)  # faster than with one
    with tempfile.TemporaryDirectory() as storage:
        TorchTrainer(
            train_on_worker,
            train_loop_config={"steps": options.steps, "first_step": str(options.first_step or "")},
            scaling_config=ScalingConfig(num_workers=WORKERS),
            torch_config=TorchConfig(backend="gloo"),
            run_config=RunConfig(storage_path=storage),
        ).fit()
    ray.shutdown()


if __name__ == "__main__":
    main()
