"""The optimizer of a run over groups of parameters. DeepSpeed wraps what is made here.

Comes after the module is built (train/engine.py); train/look.py and reshard.py ask which states it keeps."""

from collections import defaultdict
from typing import Any

import torch
from torch import nn

from orchestrator.config.training import OptimSection
from orchestrator.train.models.tensors import tied_names
from orchestrator.train.optim.adagrad import Adagrad
from orchestrator.train.optim.groups import Trait, traits_of
from orchestrator.train.optim.lion import Lion


def make_optimizer(module: nn.Module, optim: OptimSection, device: str) -> torch.optim.Optimizer:
    """Over the trainable parameters. The learning rate is set anew before every step, each group's share of it."""
    optimizer = _make(make_groups(module, optim), optim, fused=True if torch.device(device).type == "cuda" else None)
    if optim.l1:
        optimizer.register_step_pre_hook(add_l1)
    return optimizer


def _make(groups: list[dict[str, Any]], optim: OptimSection, fused: bool | None) -> torch.optim.Optimizer:
    match optim.name:
        case "adamw":
            return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=fused)
        case "adam":
            return torch.optim.Adam(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=fused)
        case "sgd":
            return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=optim.nesterov, fused=fused)
        case "adagrad":
            return Adagrad(groups, lr=optim.lr, eps=optim.eps)
        case "lion":
            return Lion(groups, lr=optim.lr, betas=optim.betas)


def make_groups(module: nn.Module, optim: OptimSection) -> list[dict[str, Any]]:
    """One group for all parameters of one trait, those that decay first. Tied parameters come once."""
    # ZeRO-3 leaves an empty parameter behind
    shapes = {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in module.named_parameters()}
    traits = traits_of(optim, shapes, tied_names(module))
    members: dict[Trait, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            members[traits[name]].append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": optim.weight_decay if trait.decays else 0.0,
            "l1": optim.l1 if trait.decays else 0.0,
            "lr_share": trait.lr_share,
        }
        for trait, parameters in sorted(members.items(), key=lambda entry: not entry[0].decays)
    ]


@torch.no_grad()
def add_l1(optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
    """The L1 penalty's part of the gradient, as a hook of the optimizer's own step.

    DeepSpeed steps every master value on the rank that owns it, once an update, with the gradient of the global batch:
    here the penalty is exact at every stage, and costs no micro-batch anything. Clipping has been done by then."""
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["l1"] else ():
            if parameter.grad is not None:
                parameter.grad.add_(parameter.sign(), alpha=group["l1"])


def state_names(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """The states that the optimizer keeps of every element of a parameter."""
    if isinstance(optimizer, torch.optim.Adam):  # AdamW is one
        return ("exp_avg", "exp_avg_sq")
    if isinstance(optimizer, torch.optim.SGD):
        return ("momentum_buffer",) if optimizer.defaults["momentum"] else ()
    if isinstance(optimizer, Adagrad):
        return ("sum",)
    if isinstance(optimizer, Lion):
        return ("exp_avg",)
    raise TypeError(f"{type(optimizer).__name__} is no optimizer made by make_optimizer")
