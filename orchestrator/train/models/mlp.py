"""Layers of units, each connected with all of the next."""

from itertools import pairwise

import torch
from torch import nn

from orchestrator.config.model import MlpSection
from orchestrator.train.models.activation import ACTIVATIONS
from orchestrator.train.models.rows import rows_of


class Mlp(nn.Module):
    def __init__(self, inputs: int, outputs: int, section: MlpSection) -> None:
        super().__init__()
        self.inputs = inputs
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([inputs, *section.hidden]))
        self.activation = ACTIVATIONS[section.activation]()
        self.dropout = nn.Dropout(section.dropout)
        self.output = nn.Linear(section.hidden[-1], outputs)

    def forward(self, features: torch.Tensor | None = None, pixel_values: torch.Tensor | None = None) -> torch.Tensor:
        """[n, outputs] of features [n, inputs], or of pictures with as many numbers."""
        hidden = rows_of(features, pixel_values, self.inputs)
        for layer in self.layers:
            hidden = self.dropout(self.activation(layer(hidden)))
        logits: torch.Tensor = self.output(hidden)
        return logits
