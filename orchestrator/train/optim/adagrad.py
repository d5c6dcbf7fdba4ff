"""Adagrad by torch's own arithmetic. Made by optimizer.py.

Not torch.optim.Adagrad itself: DeepSpeed makes that one anew with all parameters in one group, so that decay and
learning rates of groups are lost, and torch makes its state before the parameters are flattened."""

from typing import Any

import torch
from torch.optim.adagrad import adagrad
from torch.optim.optimizer import ParamsT


class Adagrad(torch.optim.Optimizer):
    """One state an element, `sum`, and one number, `step`. Decay is an L2 term of the gradient."""

    def __init__(self, params: ParamsT, lr: float, eps: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            states = [self._state_of(parameter) for parameter in parameters]
            adagrad(
                parameters,
                [parameter.grad for parameter in parameters],
                [state["sum"] for state in states],
                [state["step"] for state in states],
                has_sparse_grad=False,
                differentiable=False,
                has_complex=False,
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                lr_decay=0.0,
                eps=group["eps"],
                maximize=False,
            )

    def _state_of(self, parameter: torch.Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state["step"], state["sum"] = torch.zeros(()), torch.zeros_like(parameter)
        return state
