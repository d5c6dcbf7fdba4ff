"""Layers whose result depends on how a batch is cut over ranks and micro batches: named for `longhaul plan`."""

from collections import defaultdict

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel

ROUGHLY = "goes by one micro batch at a time, so losses on another number of ranks agree only roughly"
SHOWN = 3


def name_inexact(model: nn.Module) -> tuple[str, ...]:
    """One line a kind of layer; empty where every world of ranks gives the same gradient within rounding."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and any(parameter.requires_grad for parameter in module.parameters()):
            found[type(module).__name__].append(name)
    lines = [f"{kind} in {_list(names)}: {ROUGHLY}; GroupNorm is exact" for kind, names in found.items()]
    if isinstance(model, PreTrainedModel) and getattr(model.config, "output_router_logits", False):
        lines.append(f"the balancing of experts: {ROUGHLY}; without output_router_logits there is none")
    return tuple(lines)


def _list(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
