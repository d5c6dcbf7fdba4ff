"""Losses: one float32 number a sample, of a model's outputs and what they should be. The tasks weigh and add them up.

With class weights a sample's loss is multiplied by that of its class, and the sum is divided by the number of samples
all the same, whatever their classes: otherwise the divisor would depend on what came into the batch, and a sample's say
with it. `balanced` weights come to 1 a sample over the training split, so that the loss keeps its scale."""

from collections.abc import Callable

import torch
from torch.nn import functional

from orchestrator.config.run import RunConfig
from orchestrator.config.task import LossSection
from orchestrator.core.errors import DataError
from orchestrator.data.shards.manifest import Manifest

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # outputs, targets -> [n]


def make_number_loss(section: LossSection) -> Loss:
    """Of outputs [n] and numbers [n]. auto: the squared error."""
    if section.name == "mae":
        return lambda outputs, targets: functional.l1_loss(outputs, targets, reduction="none")
    if section.name == "huber":
        return lambda outputs, targets: functional.huber_loss(outputs, targets, reduction="none", delta=section.delta)
    return lambda outputs, targets: functional.mse_loss(outputs, targets, reduction="none")


def make_class_loss(config: RunConfig, manifest: Manifest) -> Loss:
    """Of logits [n, classes], or of binary cross-entropy [n, 1], and classes [n]. auto: cross-entropy."""
    section, weights = config.task.loss, find_class_weights(config, manifest)
    if section.name == "binary_cross_entropy":
        return lambda logits, classes: _binary(logits[:, 0], classes, weights)
    return lambda logits, classes: functional.cross_entropy(
        logits,
        classes,
        weight=None if weights is None else weights.to(logits.device),
        label_smoothing=section.label_smoothing,
        reduction="none",
    )


def _binary(logits: torch.Tensor, classes: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    losses = functional.binary_cross_entropy_with_logits(logits, classes.float(), reduction="none")
    return losses if weights is None else losses * weights.to(logits.device)[classes]


def find_class_weights(config: RunConfig, manifest: Manifest) -> torch.Tensor | None:
    """By class; balanced: samples / (classes * samples of the class), of the training split."""
    stated, classes = config.task.loss.class_weights, config.num_classes
    if stated is None or isinstance(stated, list):
        return None if stated is None else torch.tensor(stated)
    assert classes is not None  # or there would be no such config
    counts = torch.tensor(manifest.class_counts(classes), dtype=torch.float64)
    if (counts == 0).any():
        absent = ", ".join(str(number) for number in torch.nonzero(counts == 0).flatten().tolist())
        raise DataError(
            f"class {absent} has no sample in the training split, so nothing can balance it",
            where="task.loss.class_weights=balanced",
            remedy="correct task.classes, or state the weights",
        )
    return (counts.sum() / (classes * counts)).float()
