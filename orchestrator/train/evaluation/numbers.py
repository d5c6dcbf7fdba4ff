"""Metrics of a task that predicts numbers. Its rows are kept, two numbers a sample, and put into one order before they
are added up: so the outcome is the same to the last bit however the samples lay on ranks.

validation.py feeds it, scores.py tells what came of it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from orchestrator.train.evaluation.ranks import Ranks


@dataclass(frozen=True, kw_only=True, slots=True)
class NumberScores:
    """How far predictions are off. Equal on every rank, and over worlds."""

    mse: float
    mae: float
    r2: float | None  # None: all targets are equal, so there is nothing to explain


class NumberMetrics:
    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._rows: list[Tensor] = []

    def update(self, outputs: Tensor, targets: Tensor, counting: Tensor) -> None:
        """Some samples: values [n] or [n, 1], what they should be [n], and which of them count [n]."""
        rows = torch.stack([outputs.reshape(-1).double(), targets.reshape(-1).double()], dim=-1)
        self._rows.append(rows[counting])

    def compute(self) -> NumberScores:
        """Every rank calls it, once."""
        from torchmetrics.functional.regression import mean_absolute_error, mean_squared_error

        rows = self._ranks.gather(torch.cat(self._rows))
        predicted, targets = rows[torch.from_numpy(np.lexsort(rows.T.numpy()))].T
        mse = float(mean_squared_error(predicted, targets))
        # not torchmetrics' r2_score: it takes squared errors that add up to less than 1e-4 for none
        variance = float(targets.var(correction=0))
        return NumberScores(
            mse=mse,
            mae=float(mean_absolute_error(predicted, targets)),
            r2=1 - mse / variance if variance else None,
        )
