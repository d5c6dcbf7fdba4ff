"""What is learned: from a batch's arrays to the model's inputs, and from its outputs to sums of losses.

A task returns sums, never means: the loop divides by the weight of the whole global batch, so that any slicing over
ranks and micro-batches gives the same gradient."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from orchestrator.config.run import RunConfig
from orchestrator.core.errors import TrainingFailed
from orchestrator.train.engine import DTYPES
from orchestrator.train.models import read_model_config

Fields = Mapping[str, NDArray[Any]]
Inputs = dict[str, torch.Tensor]


class Task(Protocol):
    def collate(self, fields: Fields, device: torch.device) -> Inputs:
        """Some samples as tensors on the device."""
        ...

    def measure(self, forward: Callable[..., Any], inputs: Inputs) -> dict[str, torch.Tensor]:
        """Weighted sums over these samples, float32 scalars: `loss`, and what else a validation tells."""
        ...


class CausalLM:
    """Predict each token from those before it. `tokens` [n, L+1] has one token more than targets `weights` [n, L].

    With `positions` [n, L], which begin at 0 in every document, a token sees its own document only: transformers makes
    that mask itself, from positions that do not rise by one and where no other mask is given (APART in models.py)."""

    def __init__(self, config: RunConfig) -> None:
        self._apart = config.task.documents_apart

    def collate(self, fields: Fields, device: torch.device) -> Inputs:
        tokens, weights = move(fields["tokens"], device), move(fields["weights"], device)
        inputs = {"input_ids": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights}
        return inputs | ({"position_ids": move(fields["positions"], device).long()} if self._apart else {})

    def measure(self, forward: Callable[..., Any], inputs: Inputs) -> dict[str, torch.Tensor]:
        fed = {name: inputs[name] for name in ("input_ids", "position_ids") if name in inputs}
        logits = forward(**fed, use_cache=False).logits
        targets = inputs["targets"].reshape(-1)
        losses = functional.cross_entropy(logits.float().flatten(0, 1), targets, reduction="none")
        return {"loss": torch.dot(losses, inputs["weights"].reshape(-1))}


class ImageClassification:
    """Name the class of a picture: `image` uint8 [n, height, width, 3], `label` [n] from 0."""

    def __init__(self, config: RunConfig) -> None:
        self._dtype = DTYPES[config.train.precision]
        self._classes: int = read_model_config(config, None).num_labels

    def collate(self, fields: Fields, device: torch.device) -> Inputs:
        """Pixels from 0 to 1, channels first."""
        check_labels(fields["label"], self._classes)
        pixels = move(fields["image"], device).permute(0, 3, 1, 2).to(self._dtype) / 255
        labels, weights = move(fields["label"], device).long(), move(fields["weights"], device)
        return {"pixel_values": pixels, "labels": labels, "weights": weights}

    def measure(self, forward: Callable[..., Any], inputs: Inputs) -> dict[str, torch.Tensor]:
        logits = forward(pixel_values=inputs["pixel_values"]).logits.float()
        labels, weights = inputs["labels"], inputs["weights"]
        losses = functional.cross_entropy(logits, labels, reduction="none")
        right = (logits.argmax(-1) == labels).float()
        return {"loss": torch.dot(losses, weights), "accuracy": torch.dot(right, weights)}


def move(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def check_labels(labels: NDArray[Any], classes: int) -> None:
    """A label without a class: CUDA would end the process without a word about it."""
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= classes:
        raise TrainingFailed(
            f"there are labels from {least} to {most}, the model tells {classes} classes apart",
            where="model.transformers.num_labels",
            remedy="count labels from 0" if least < 0 else f"set it to {most + 1} or more",
        )


TASKS: dict[str, Callable[[RunConfig], Task]] = {
    "causal_lm": CausalLM,
    "image_classification": ImageClassification,
}
