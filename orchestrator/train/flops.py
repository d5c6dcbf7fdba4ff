"""Floating-point operations of a sample and of a device, which together give the MFU: the share of the device's peak
that the model's own arithmetic comes to. Activations computed again do not count.

Called by speed.py; where a device's peak is not known there is no MFU."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from orchestrator.config.check import replace_values
from orchestrator.config.run import RunConfig
from orchestrator.train.models.build import build_model, describe_model
from orchestrator.train.tasks.task import Fields, Task

# Dense peaks in TFLOPS, from the makers' data sheets: by a part of torch's name of the device, longer ones first.
# bf16 and fp16 with fp32 accumulation; fp32 without TF32, which torch does not use unless it is told to.
PEAK_TFLOPS: Mapping[str, Mapping[str, float]] = {
    "NVIDIA B200": {"bf16": 2250, "fp16": 2250, "fp32": 75},
    "NVIDIA GH200": {"bf16": 989, "fp16": 989, "fp32": 67},
    "NVIDIA H200": {"bf16": 989, "fp16": 989, "fp32": 67},
    "NVIDIA H100 PCIe": {"bf16": 756, "fp16": 756, "fp32": 51},
    "NVIDIA H100 NVL": {"bf16": 835, "fp16": 835, "fp32": 60},
    "NVIDIA H100": {"bf16": 989, "fp16": 989, "fp32": 67},
    "NVIDIA A100": {"bf16": 312, "fp16": 312, "fp32": 19.5},
    "NVIDIA A10G": {"bf16": 70, "fp16": 70, "fp32": 35},
    "NVIDIA A10": {"bf16": 125, "fp16": 125, "fp32": 31.2},
    "NVIDIA L40S": {"bf16": 362, "fp16": 362, "fp32": 91.6},
    "NVIDIA L4": {"bf16": 121, "fp16": 121, "fp32": 30.3},
    "Tesla V100": {"fp16": 125, "fp32": 15.7},
    "Tesla T4": {"fp16": 65, "fp32": 8.1},
    "NVIDIA RTX A6000": {"bf16": 154.8, "fp16": 154.8, "fp32": 38.7},
    "NVIDIA GeForce RTX 3090": {"bf16": 71, "fp16": 71, "fp32": 35.6},
    "NVIDIA GeForce RTX 4090": {"bf16": 165.2, "fp16": 165.2, "fp32": 82.6},
}


def peak_flops(device_name: str, precision: str) -> float | None:
    """Operations a second at most; None when nobody has written it down. The longest name that fits counts."""
    fitting = [name for name in PEAK_TFLOPS if name in device_name]
    peak = PEAK_TFLOPS[max(fitting, key=len)].get(precision) if fitting else None
    return None if peak is None else peak * 1e12


def flops_of_one(config: RunConfig, vocab_size: int | None, task: Task, fields: Fields) -> float | None:
    """Of forward and backward of one token or sample; None where it cannot be told.

    Of language models by formula, so that numbers can be compared with those of others; of the rest by counting."""
    if config.packed_len is not None:
        description = describe_model(config, vocab_size)
        if description.layers and description.hidden_size:
            return float(description.flops_per_token(config.packed_len))
    return count_flops(config, vocab_size, task, fields)


def count_flops(config: RunConfig, vocab_size: int | None, task: Task, fields: Fields) -> float | None:
    """Run one sample through the model on the meta device, which computes nothing, and add up what it would compute."""
    plain = replace_values(config, {"train.checkpoint_activations": False})
    one: dict[str, Any] = {name: array[:1] for name, array in fields.items()}
    meta = torch.device("meta")
    try:
        with meta:
            model = build_model(plain, vocab_size)
            with FlopCounterMode(display=False) as counter:
                task.step(model, task.collate(one, meta)).loss.backward()  # type: ignore[no-untyped-call]
    except (NotImplementedError, RuntimeError, TypeError):  # it wants to see values
        return None
    rows = one["weights"].size
    return counter.get_total_flops() / rows if counter.get_total_flops() else None
