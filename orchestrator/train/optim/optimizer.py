"""The optimizer of a run: torch's own, with weight decay on matrices only. DeepSpeed wraps what is made here.

Comes after the module is built (train/engine.py); train/reshard.py asks which states it keeps."""

from typing import Any

import torch
from torch import nn

from orchestrator.config.training import OptimSection


def make_optimizer(module: nn.Module, optim: OptimSection, device: str) -> torch.optim.Optimizer:
    """AdamW or SGD over the trainable parameters; the learning rate is set anew before every step."""
    groups = decay_groups(module, optim.weight_decay)
    fused = True if torch.device(device).type == "cuda" else None
    if optim.name == "adamw":
        return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=fused)
    return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, fused=fused)


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights with two or more dimensions decay; biases and norms do not. Tied parameters come once."""
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            shape = getattr(parameter, "ds_shape", parameter.shape)  # ZeRO-3 leaves an empty parameter behind
            (matrices if len(shape) > 1 else vectors).append(parameter)
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def state_names(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """The states that the optimizer keeps of every element of a parameter."""
    if isinstance(optimizer, torch.optim.AdamW):
        return ("exp_avg", "exp_avg_sq")
    if isinstance(optimizer, torch.optim.SGD):
        return ("momentum_buffer",) if optimizer.defaults["momentum"] else ()
    raise TypeError(f"{type(optimizer).__name__} is no optimizer made by make_optimizer")
