"""What tasks that tell classes apart have in common: labels that fit, and what a step says of logits."""

from typing import Any

import torch
from numpy.typing import NDArray

from orchestrator.config.run import RunConfig
from orchestrator.core.errors import ConfigError, TrainingFailed
from orchestrator.data.shards.manifest import Manifest
from orchestrator.train.models.transformers import read_model_config
from orchestrator.train.tasks.losses import make_class_loss
from orchestrator.train.tasks.task import Measured


class Classes:
    """The classes of a run, and its loss."""

    def __init__(self, config: RunConfig, manifest: Manifest) -> None:
        self.number = count_classes(config)
        self._loss = make_class_loss(config, manifest)

    def check(self, labels: NDArray[Any]) -> None:
        """A label without a class: CUDA would end the process without a word about it."""
        if labels.dtype.kind not in "iub":
            raise TrainingFailed(
                f"labels are {labels.dtype}, not whole numbers",
                where="data.fields.label",
                remedy="decode the field as int, or pick the number from a json member with data.transforms",
            )
        least, most = int(labels.min()), int(labels.max())
        if least < 0 or most >= self.number:
            raise TrainingFailed(
                f"there are labels from {least} to {most}, the model tells {self.number} classes apart",
                where="task.classes, or num_labels of the model",
                remedy="count labels from 0" if least < 0 else f"set it to {most + 1} or more",
            )

    def measure(self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> Measured:
        losses = self._loss(logits, labels)
        if logits.shape[1] == 1:  # one output for two classes: the other one's logit is 0
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        return Measured(loss=torch.dot(losses, weights), outputs=logits.detach(), targets=labels, weights=weights)


def count_classes(config: RunConfig) -> int:
    """As the config says, or a trained model that it names."""
    if config.num_classes is not None:
        return config.num_classes
    if config.model.pretrained is not None:
        return int(read_model_config(config, None).num_labels)
    raise ConfigError("is needed: how many classes there are", where="task.classes")
