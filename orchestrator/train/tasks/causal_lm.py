"""Predict each token from those before it."""

import torch
from torch.nn import functional

from orchestrator.config.run import RunConfig
from orchestrator.data.shards.manifest import Manifest
from orchestrator.train.models.transformers import balancing_share
from orchestrator.train.tasks.task import Fields, Forward, Inputs, Measured, logits_of, move


class CausalLM:
    """Predict each token from those before it. `tokens` [n, L+1] has one token more than targets `weights` [n, L].

    With `positions` [n, L], which begin at 0 in every document, a token sees its own document only: transformers makes
    that mask itself, from positions that do not rise by one and where no other mask is given
    (APART in models/transformers.py)."""

    def __init__(self, config: RunConfig, manifest: Manifest) -> None:  # noqa: ARG002 - a Task
        self._apart = config.task.documents_apart
        self._balancing = balancing_share(config)

    def collate(self, fields: Fields, device: torch.device) -> Inputs:
        tokens, weights = move(fields["tokens"], device), move(fields["weights"], device)
        inputs = {"input_ids": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights}
        return inputs | ({"position_ids": move(fields["positions"], device).long()} if self._apart else {})

    def step(self, forward: Forward, inputs: Inputs) -> Measured:
        fed = {name: inputs[name] for name in ("input_ids", "position_ids") if name in inputs}
        output, weights = forward(**fed), inputs["weights"].reshape(-1)
        targets = inputs["targets"].reshape(-1)
        losses = functional.cross_entropy(logits_of(output).flatten(0, 1), targets, reduction="none")
        loss = torch.dot(losses, weights)
        if self._balancing and torch.is_grad_enabled():  # an evaluation is of the task alone
            loss = loss + self._balancing * weights.sum() * output.aux_loss.float()
        return Measured(loss=loss)
