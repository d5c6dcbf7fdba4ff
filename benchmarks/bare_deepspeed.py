"""Peer: what people write without Longhaul: a DeepSpeed loop over the quickstart's Llama and random tokens.

Imports nothing of Longhaul; ray_train_peer.py and step_time.py use its pieces. Run it, for example, by

    torchrun --nproc-per-node 2 benchmarks/bare_deepspeed.py --steps 2 --first-step /tmp/first.json
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import yaml

QUICKSTART = Path(__file__).resolve().parents[1] / "configs" / "quickstart.yaml"


@dataclass(frozen=True)
class Sizes:
    """What the quickstart trains, read from its config so that both stay alike."""

    model: dict[str, Any]
    vocab_size: int
    seq_len: int
    global_batch: int
    lr: float
    weight_decay: float
    clip_norm: float
    zero_stage: int

    @classmethod
    def read(cls, path: Path = QUICKSTART) -> "Sizes":
        config = yaml.safe_load(path.read_text())
        return cls(
            model=config["model"]["transformers"],
            vocab_size=config["prepare"]["tokens"]["train_bpe"],
            seq_len=config["task"]["seq_len"],
            global_batch=config["train"]["global_batch"],
            lr=config["optim"]["lr"],
            weight_decay=config["optim"]["weight_decay"],
            clip_norm=config["train"]["clip_norm"],
            zero_stage=config["deepspeed"]["zero_optimization"]["stage"],
        )


def import_deepspeed() -> Any:
    """DeepSpeed for the CPU. Its shared-memory operator is left out: compiling it would cost the peer half a minute."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    from deepspeed import ops

    ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def build_engine(sizes: Sizes, world_size: int, weights: dict[str, Any] | None = None) -> Any:
    """Model and AdamW under ZeRO, bf16, one micro-batch a step. The process group is there already.

    `weights` by parameter name replace the model's own initial ones; tied ones come once."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    deepspeed = import_deepspeed()
    keys = {key: value for key, value in sizes.model.items() if key != "model_type"}
    config = AutoConfig.for_model(sizes.model["model_type"], **keys, vocab_size=sizes.vocab_size, use_cache=False)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if weights is not None:
        model.load_state_dict(weights, strict=False)
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [
        {"params": matrices, "weight_decay": sizes.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=sizes.lr, betas=(0.9, 0.95))
    return deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        dist_init_required=False,
        config={
            "train_batch_size": sizes.global_batch,
            "train_micro_batch_size_per_gpu": sizes.global_batch // world_size,
            "gradient_clipping": sizes.clip_norm,
            "bf16": {"enabled": True},
            "zero_optimization": {"stage": sizes.zero_stage},
        },
    )[0]


def train_step(engine: Any, tokens: Any) -> float:
    """One update on `tokens` [n, seq_len + 1]; the loss of this rank."""
    from torch.nn import functional

    logits = engine(input_ids=tokens[:, :-1], use_cache=False).logits
    loss = functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].reshape(-1))
    engine.backward(loss)
    engine.step()
    return float(loss.detach())


def train(sizes: Sizes, rank: int, world_size: int, steps: int, told: Callable[[int, float], None]) -> list[float]:
    """Train on random tokens; `told` hears each finished step. Returns the seconds of every step."""
    import torch

    engine = build_engine(sizes, world_size)
    generator = torch.Generator().manual_seed(rank)
    shape = (sizes.global_batch // world_size, sizes.seq_len + 1)
    seconds = []
    for step in range(steps):
        tokens = torch.randint(sizes.vocab_size, shape, generator=generator)
        began = time.perf_counter()
        loss = train_step(engine, tokens)
        seconds.append(time.perf_counter() - began)
        told(step, loss)
    return seconds


def write_first_step(path: Path | None, rank: int) -> Callable[[int, float], None]:
    """On rank 0, leave the wall time at which the first update was done."""

    def told(step: int, _loss: float) -> None:
        if path is not None and step == 0 and rank == 0:
            path.write_text(json.dumps({"t": time.time()}))

    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--first-step", type=Path, help="file for the wall time of the first finished update")
    options = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    import_deepspeed().init_distributed(dist_backend="gloo", verbose=False)
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    seconds = train(Sizes.read(), rank, world_size, options.steps, write_first_step(options.first_step, rank))
    if rank == 0:
        print(f"{options.steps} steps on {world_size} ranks, median {median(seconds):.3f} s")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
