"""From our config to DeepSpeed's JSON: the user's own `deepspeed` keys under those that Longhaul decides. Pure.

Comes after the config is checked (which refuses keys that do not work with fragments); before train/engine.py."""

from copy import deepcopy
from typing import Any

from orchestrator.config.run import RunConfig


def make_deepspeed_config(
    config: RunConfig, *, data_size: int, micro_batch: int = 1, accumulation: int = 1
) -> dict[str, Any]:
    """DeepSpeed's JSON for one world. A key given as "auto" by the user is decided here or left to DeepSpeed."""
    precision = config.train.precision
    ours = {
        "train_batch_size": micro_batch * accumulation * data_size,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": 0.0 if is_plain_torch(config) else config.train.clip_norm or 0.0,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16"},
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,  # SGD
        "zero_force_ds_cpu_optimizer": False,  # torch's AdamW also when offloaded: DeepSpeed's needs a compiler
    }
    return _overlay(_without_auto(config.deepspeed), ours)


def is_plain_torch(config: RunConfig) -> bool:
    """Whether DeepSpeed leaves the optimizer as it is: then clipping and non-finite gradients are ours to handle."""
    return config.zero_stage == 0 and config.train.precision == "fp32"


def _without_auto(keys: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in keys.items() if value != "auto"}
    return {key: _without_auto(value) if isinstance(value, dict) else deepcopy(value) for key, value in kept.items()}


def _overlay(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        inner = below.get(key)
        merged[key] = _overlay(inner, value) if isinstance(value, dict) and isinstance(inner, dict) else value
    return merged
