"""The tensors of a model: each once, under one name. Order and names are the same everywhere."""

from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """While a module is constructed, its parameters take no memory; buffers are computed as always."""
    register = nn.Module.register_parameter

    def register_on_meta(owner: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(owner, name, parameter)
        if parameter is not None and not parameter.is_meta:
            owner._parameters[name] = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
