"""The tensors of a model: each once, under one name. Order and names are the same everywhere."""

from typing import Literal

import torch
from torch import nn


def own_tensors(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Every parameter and persistent buffer once, under the first name it has."""
    kept = model.state_dict(keep_vars=True).keys()
    return [*model.named_parameters(), *((name, buffer) for name, buffer in model.named_buffers() if name in kept)]


def tied_names(model: nn.Module) -> dict[str, str]:
    """For each further name of a tied parameter, its first."""
    first = {parameter: name for name, parameter in model.named_parameters()}
    every = model.named_parameters(remove_duplicate=False)
    return {name: first[parameter] for name, parameter in every if first[parameter] != name}


def kind_of(tensor: torch.Tensor) -> Literal["trainable", "frozen", "buffer"]:
    if not isinstance(tensor, nn.Parameter):
        return "buffer"
    return "trainable" if tensor.requires_grad else "frozen"
