"""What is learned: from a batch's arrays to the model's inputs, and from its outputs to a sum of losses.

A task returns sums, never means: the loop divides by the weight of the whole global batch, so that any slicing over
ranks and micro-batches gives the same gradient."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

Fields = Mapping[str, NDArray[Any]]
Inputs = dict[str, torch.Tensor]


class Task(Protocol):
    def collate(self, fields: Fields, device: torch.device) -> Inputs:
        """Some samples as tensors on the device."""
        ...

    def loss(self, forward: Callable[..., Any], inputs: Inputs) -> torch.Tensor:
        """The weighted sum of losses over these samples, a float32 scalar."""
        ...


class CausalLM:
    """Predict each token from those before it. `tokens` [n, L+1] has one token more than targets `weights` [n, L]."""

    def collate(self, fields: Fields, device: torch.device) -> Inputs:
        tokens = torch.from_numpy(np.ascontiguousarray(fields["tokens"])).to(device)
        weights = torch.from_numpy(np.ascontiguousarray(fields["weights"])).to(device)
        return {"input_ids": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights}

    def loss(self, forward: Callable[..., Any], inputs: Inputs) -> torch.Tensor:
        logits = forward(input_ids=inputs["input_ids"], use_cache=False).logits
        targets = inputs["targets"].reshape(-1)
        losses = functional.cross_entropy(logits.float().flatten(0, 1), targets, reduction="none")
        return torch.dot(losses, inputs["weights"].reshape(-1))


TASKS: dict[str, type[CausalLM]] = {"causal_lm": CausalLM}
