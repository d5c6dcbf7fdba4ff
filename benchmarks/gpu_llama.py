"""MFU of a 1B Llama in bf16 on one GPU: Longhaul's trainer beside a bare DeepSpeed loop and a bare PyTorch loop.

The shape is that of configs/llama-1b.yaml. All three train micro-batches of the same size on as many tokens, with fused
AdamW and activations computed again (--keep: not). Longhaul and the bare DeepSpeed loop run ZeRO-1 with
fp32 master weights; the PyTorch loop has fp32 weights under autocast. Longhaul's side is its whole trainer: stream,
ledger, all-reduce of figures; only Ray and scribe are not there. Each trains in a process of its own, turn by turn.
Needs a CUDA device with about 40 GiB; a device without a known peak shows tokens a second only. Run:

    python benchmarks/gpu_llama.py --rounds 3 --steps 20
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.distributed import HashStore
from torch.nn import functional

from orchestrator.config.load import load_config
from orchestrator.config.run import RunConfig
from orchestrator.core.clock import SystemClock
from orchestrator.core.news import News
from orchestrator.core.words import Word, World
from orchestrator.prepare.run import prepare
from orchestrator.train.engine import join_world
from orchestrator.train.flops import peak_flops
from orchestrator.train.job import TrainJob
from orchestrator.train.loop import Trainer
from orchestrator.train.models.build import describe_model

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "llama-1b.yaml"
DEVICE = "cuda:0"
WARM_UP = 5  # steps that do not count
SEQ_LEN = 4096
ACCUMULATION = 4
WAYS = ("deepspeed", "pytorch", "longhaul")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--micro-batch", type=int, default=2)
    parser.add_argument("--keep", action="store_true", help="keep activations")
    parser.add_argument("--work", type=Path, help="folder for the prepared text")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)  # this process measures it
    options = parser.parse_args()
    if options.way is not None:
        print(json.dumps(measure(options)))
        return
    with tempfile.TemporaryDirectory(prefix="gpu-llama-") as folder:
        options.work = options.work or Path(folder)
        prepare(read_config(options))
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way in WAYS:
                found[way].append(measure_apart(way, options))
    show(found, read_config(options))


def read_config(options: argparse.Namespace) -> RunConfig:
    """The shape of the 1B config on the text that every Python installation has; its vocabulary stays as large."""
    work, batch = options.work, options.micro_batch * ACCUMULATION
    sets = [
        f"data.train=[{{demo: text, path: {work}/demo}}]", f"data.work={work}/work", "data.split.validation=0",
        "prepare.tokens.tokenizer=null", "prepare.tokens.train_bpe=4096", f"task.seq_len={SEQ_LEN}",
        f"train.steps={WARM_UP + options.steps + 2}", f"train.global_batch={batch}",
        f"train.micro_batch={options.micro_batch}", f"train.checkpoint_activations={str(not options.keep).lower()}",
        "evaluate.every_steps=null", "checkpoint={every_steps: null, keep: {last: 1, best: 0}}",
        "schedule={name: constant, warmup_steps: 0}", "cluster={address: local, ranks_per_node: 1, device: cuda}",
        "cluster.nodes={min: 1, max: 1}", "tracking={wandb: {mode: off}}",
    ]  # fmt: skip
    return load_config(CONFIG, sets=sets).config


def measure_apart(way: str, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, f"--way={way}", f"--steps={options.steps}", f"--work={options.work}"]
    command += [f"--micro-batch={options.micro_batch}", *(["--keep"] if options.keep else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{way} failed:\n{done.stdout}\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Median seconds a step, and the most memory that torch has held."""
    config = read_config(options)
    make: dict[str, Callable[[RunConfig], Callable[[], Any]]] = {
        "longhaul": make_longhaul,
        "deepspeed": make_deepspeed_loop,
        "pytorch": make_pytorch_loop,
    }
    step, seconds = make[options.way](config), []
    for _ in range(WARM_UP + options.steps):
        torch.cuda.synchronize()
        began = time.perf_counter()
        step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated()
    return {"step_s": median(seconds[WARM_UP:]), "peak_gib": peak / 2**30}


# ---- the three; each gives a function that does one step ----


def make_longhaul(config: RunConfig) -> Callable[[], Any]:
    world = World.flat(0, 1)
    join_world(world, DEVICE, HashStore(), timeout_s=600.0)
    folder = Path(tempfile.mkdtemp(prefix="gpu-llama-run-"))
    job = TrainJob(
        config=config,
        manifest=prepare(config),
        world=world,
        generation=1,
        device=DEVICE,
        micro_batch=int(config.train.micro_batch),
        accumulation=ACCUMULATION,
        checkpoints=folder / "checkpoints",
        skips_file=folder / "skips.jsonl",
        start=None,
        sink=Nobody(),
        helm=Nobody(),
        clock=SystemClock(),
    )
    return Trainer(job).train_step


class Nobody:
    """A core.news.Sink and Helm."""

    told = settled = 0

    def tell(self, news: News) -> None: ...

    def flush(self) -> None: ...

    def word(self) -> Word:
        return Word.GO_ON

    def show(self, step: int, phase: str) -> None: ...

    def show_busy(self, seconds: float) -> None: ...


def make_deepspeed_loop(config: RunConfig) -> Callable[[], Any]:
    import deepspeed

    deepspeed.init_distributed(dist_backend="nccl", auto_mpi_discovery=False, rank=0, world_size=1)
    model = make_model(config, torch.float32)
    micro = int(config.train.micro_batch)
    engine = deepspeed.initialize(
        model=model,
        optimizer=make_adamw(model, config),
        dist_init_required=False,
        config={
            "train_batch_size": config.train.global_batch,
            "train_micro_batch_size_per_gpu": micro,
            "gradient_clipping": config.train.clip_norm,
            "bf16": {"enabled": True},
            "zero_optimization": {"stage": 1, "overlap_comm": True},
        },
    )[0]

    def step() -> None:
        for tokens in draw_tokens(micro):
            engine.backward(loss_of(engine(input_ids=tokens[:, :-1], use_cache=False).logits, tokens))
            engine.step()

    return step


def make_pytorch_loop(config: RunConfig) -> Callable[[], Any]:
    model = make_model(config, torch.float32).to(DEVICE)
    optimizer = make_adamw(model, config)

    def step() -> None:
        for tokens in draw_tokens(int(config.train.micro_batch)):
            with torch.autocast("cuda", torch.bfloat16):
                logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
            (loss_of(logits, tokens) / ACCUMULATION).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip_norm or 1e9)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def make_model(config: RunConfig, dtype: torch.dtype) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    keys = dict(config.model.transformers or {})
    with torch.device(DEVICE):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(keys.pop("model_type"), **keys), dtype=dtype)
    if config.train.checkpoint_activations:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model.train()


def make_adamw(model: Any, config: RunConfig) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.optim.lr, betas=config.optim.betas, fused=True)


def draw_tokens(micro_batch: int) -> list[torch.Tensor]:
    return [torch.randint(4096, (micro_batch, SEQ_LEN + 1), device=DEVICE) for _ in range(ACCUMULATION)]


def loss_of(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].reshape(-1))


# ---- the outcome ----


def show(found: dict[str, list[dict[str, float]]], config: RunConfig) -> None:
    device = torch.cuda.get_device_name(DEVICE)
    peak = peak_flops(device, "bf16")
    vocab = int((config.model.transformers or {})["vocab_size"])
    flops = describe_model(config, vocab).flops_per_token(SEQ_LEN)
    tokens = config.train.global_batch * SEQ_LEN
    base = median(one["step_s"] for one in found["deepspeed"])
    table = Table(title=f"Llama 1B, bf16, {device}: medians of {len(found['deepspeed'])} rounds", title_justify="left")
    for heading in ("", "step s", "least to most", "tokens/s", "MFU", "peak GiB", "speed to DeepSpeed's"):
        table.add_column(heading, justify="right" if heading else "left")
    for way, rounds in found.items():
        seconds = sorted(one["step_s"] for one in rounds)
        middle = median(seconds)
        rate = tokens / middle
        mfu = f"{rate * flops / peak:.3f}" if peak is not None else "n/a"
        memory = max(one["peak_gib"] for one in rounds)
        spread = f"{seconds[0]:.3f} to {seconds[-1]:.3f}"
        table.add_row(way, f"{middle:.3f}", spread, f"{rate:,.0f}", mfu, f"{memory:.1f}", f"{base / middle:.3f}")
    table.caption = "at least 0.99 asked"
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
