"""Name the class of a picture."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch.nn import functional

from orchestrator.config.run import RunConfig
from orchestrator.core.errors import TrainingFailed
from orchestrator.data.shards.manifest import Manifest
from orchestrator.train.engine import DTYPES
from orchestrator.train.models.transformers import read_model_config
from orchestrator.train.tasks.task import Fields, Forward, Inputs, Measured, logits_of, move


class ImageClassification:
    """Name the class of a picture: `image` uint8 [n, height, width, 3], `label` [n] from 0."""

    def __init__(self, config: RunConfig, manifest: Manifest) -> None:  # noqa: ARG002 - a Task
        self._dtype = DTYPES[config.train.precision]
        self._classes: int = read_model_config(config, None).num_labels

    def collate(self, fields: Fields, device: torch.device) -> Inputs:
        """Pixels from 0 to 1, channels first."""
        check_labels(fields["label"], self._classes)
        pixels = move(fields["image"], device).permute(0, 3, 1, 2).to(self._dtype) / 255
        labels, weights = move(fields["label"], device).long(), move(fields["weights"], device)
        return {"pixel_values": pixels, "labels": labels, "weights": weights}

    def step(self, forward: Forward, inputs: Inputs) -> Measured:
        logits = logits_of(forward(pixel_values=inputs["pixel_values"]))
        labels, weights = inputs["labels"], inputs["weights"]
        losses = functional.cross_entropy(logits, labels, reduction="none")
        right = (logits.argmax(-1) == labels).float()
        return Measured(
            loss=torch.dot(losses, weights),
            sums={"accuracy": torch.dot(right, weights)},
            outputs=logits.detach(),
            targets=labels,
            weights=weights,
        )


def check_labels(labels: NDArray[Any], classes: int) -> None:
    """A label without a class: CUDA would end the process without a word about it."""
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= classes:
        raise TrainingFailed(
            f"there are labels from {least} to {most}, the model tells {classes} classes apart",
            where="model.transformers.num_labels",
            remedy="count labels from 0" if least < 0 else f"set it to {most + 1} or more",
        )
