"""Metrics of a task that tells classes apart: counts, batch by batch, and rows where a curve needs the order of all.

Comes after tasks/, which give outputs and targets; validation.py feeds it and scores.py tells what came of it.
torchmetrics is imported when the first batch is there: it takes a second that no start of a run should wait for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.core.errors import TrainingFailed
from orchestrator.train.evaluation.ranks import Ranks

IGNORED = -1  # as a target
PerClass = list[float | None]  # None: there is no sample of the class


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """The ROC of one class against the rest. Arrays, since tensors do not outlive a process that sends them."""

    of_class: int
    false_rates: NDArray[np.float32]
    true_rates: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassScores:
    """What the predictions of a split are worth. Equal on every rank, and over worlds."""

    counts: list[int]  # samples of each class
    accuracy: float
    precision: PerClass
    recall: PerClass
    f1: PerClass
    roc_auc: PerClass  # empty when not wished; None also where all samples are of the class
    matrix: list[list[int]]  # true class by predicted class; empty when not wished
    curves: list[Curve]

    @property
    def absent(self) -> list[int]:
        return [number for number, count in enumerate(self.counts) if not count]


class ClassMetrics:
    """Counts are exact whatever the world; what follows from them is computed in float64 on every rank alike."""

    def __init__(self, num_classes: int, wished: Sequence[str], ranks: Ranks) -> None:
        from torchmetrics import MetricCollection
        from torchmetrics import classification as of

        def add(counts: Tensor, group: object) -> list[Tensor]:  # noqa: ARG001 - as torchmetrics calls it
            return [ranks.add(counts)]

        self._num_classes, self._wished, self._ranks = num_classes, wished, ranks
        self._scores: list[Tensor] = []  # of the samples seen here, for the ROC
        self._targets: list[Tensor] = []
        options = {
            "num_classes": num_classes,
            "validate_args": False,
            "ignore_index": IGNORED,
            "dist_sync_fn": add,
            "distributed_available_fn": lambda: True,
        }
        by_class = {
            "counts": of.MulticlassStatScores(average=None, **options),
            "precision": of.MulticlassPrecision(average=None, **options),
            "recall": of.MulticlassRecall(average=None, **options),
            "f1": of.MulticlassF1Score(average=None, **options),
        }
        whole = {"accuracy": of.MulticlassAccuracy(average="micro", **options)}
        if "confusion_matrix" in wished:
            whole["matrix"] = of.MulticlassConfusionMatrix(**options)
        groups = [list(by_class), *([name] for name in whole)]  # those of a group count once for all of them
        self._metrics = MetricCollection(by_class | whole, compute_groups=groups)
        self._metrics.set_dtype(torch.float64)

    def update(self, outputs: Tensor, targets: Tensor, counting: Tensor) -> None:
        """Some samples: logits [n, classes], or [n] or [n, 1] of the second of two classes; targets [n]; and which of
        them count [n]."""
        logits = outputs.float() if outputs.ndim == 2 and outputs.shape[1] > 1 else of_two_classes(outputs)
        targets = targets.long()
        self._check_targets(targets[counting])
        self._metrics.update(logits.argmax(-1), targets.where(counting, IGNORED))
        if "roc_auc" in self._wished:
            self._scores.append(logits[counting])
            self._targets.append(targets[counting])

    def compute(self) -> ClassScores:
        """Every rank calls it, once."""
        found = self._metrics.compute()
        counts = [round(count) for count in found["counts"][:, -1].tolist()]
        areas, curves = self._compute_roc() if "roc_auc" in self._wished else ([], [])

        def each(name: str) -> PerClass:
            return [score if count else None for score, count in zip(found[name].tolist(), counts, strict=True)]

        return ClassScores(
            counts=counts,
            accuracy=float(found["accuracy"]),
            precision=each("precision"),
            recall=each("recall"),
            f1=each("f1"),
            roc_auc=areas,
            matrix=found["matrix"].long().tolist() if "matrix" in found else [],
            curves=curves,
        )

    def _check_targets(self, targets: Tensor) -> None:
        if len(targets) and (targets.min() < 0 or targets.max() >= self._num_classes):
            raise TrainingFailed(
                f"there are targets from {int(targets.min())} to {int(targets.max())}, and outputs for "
                f"{self._num_classes} classes",
                where="task",
                remedy="count classes from 0, and give out as many outputs as there are classes",
            )

    def _compute_roc(self) -> tuple[PerClass, list[Curve]]:
        """Each class against the rest; of two classes the second, whose curve says the same as that of the first."""
        from torchmetrics.functional.classification import binary_roc
        from torchmetrics.utilities.compute import auc

        scores = self._ranks.gather(torch.cat(self._scores)).double().softmax(-1)
        targets = self._ranks.gather(torch.cat(self._targets))
        areas: PerClass = [None] * self._num_classes
        curves = []
        for number in range(self._num_classes) if self._num_classes > 2 else [1]:
            of_class = targets == number
            if of_class.any() and not of_class.all():
                false_rates, true_rates, _ = binary_roc(scores[:, number], of_class.long(), validate_args=False)
                areas[number] = float(auc(false_rates.double(), true_rates.double()))
                curves.append(Curve(of_class=number, false_rates=false_rates.numpy(), true_rates=true_rates.numpy()))
        return [areas[1]] * 2 if self._num_classes == 2 else areas, curves


def of_two_classes(outputs: Tensor) -> Tensor:
    """Logits of two classes from that of the second."""
    logit = outputs.float().reshape(-1)
    return torch.stack([torch.zeros_like(logit), logit], dim=-1)
