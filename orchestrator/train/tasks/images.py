"""Name the class of a picture."""

import torch

from orchestrator.config.run import RunConfig
from orchestrator.data.shards.manifest import Manifest
from orchestrator.train.engine import DTYPES
from orchestrator.train.tasks.classes import Classes
from orchestrator.train.tasks.task import Fields, Forward, Inputs, Measured, logits_of, move


class ImageClassification:
    """Name the class of a picture: `image` [n, height, width, 3], or [n, height, width] of grey ones, and `label` [n]
    from 0. Bytes are fed as 0 to 1; other numbers (data.transforms: normalize) as they are."""

    def __init__(self, config: RunConfig, manifest: Manifest) -> None:
        self._dtype = DTYPES[config.train.precision]
        self._classes = Classes(config, manifest)

    def collate(self, fields: Fields, device: torch.device) -> Inputs:
        """Channels first."""
        self._classes.check(fields["label"])
        pictures = move(fields["image"], device)
        pixels = pictures[:, None] if pictures.ndim == 3 else pictures.permute(0, 3, 1, 2)
        pixels = pixels.to(self._dtype) / 255 if pictures.dtype == torch.uint8 else pixels.to(self._dtype)
        labels, weights = move(fields["label"], device).long(), move(fields["weights"], device)
        return {"pixel_values": pixels, "labels": labels, "weights": weights}

    def step(self, forward: Forward, inputs: Inputs) -> Measured:
        logits = logits_of(forward(pixel_values=inputs["pixel_values"]))
        return self._classes.measure(logits, inputs["labels"], inputs["weights"])
