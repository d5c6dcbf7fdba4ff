"""One matrix: linear regression, or logistic regression, by the task's loss."""

import torch
from torch import nn

from orchestrator.train.models.rows import rows_of


class Linear(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__()
        self.output = nn.Linear(inputs, outputs, bias=bias)

    def forward(self, features: torch.Tensor | None = None, pixel_values: torch.Tensor | None = None) -> torch.Tensor:
        """[n, outputs] of features [n, inputs], or of pictures with as many numbers."""
        logits: torch.Tensor = self.output(rows_of(features, pixel_values, self.output.in_features))
        return logits
