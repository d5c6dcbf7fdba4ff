"""A sample as one row of numbers: the columns of a table, or a picture's pixels. What linear and mlp are given."""

import torch

from orchestrator.core.errors import TrainingFailed


def rows_of(features: torch.Tensor | None, pixel_values: torch.Tensor | None, inputs: int) -> torch.Tensor:
    """[n, inputs], from whichever of the two there is."""
    rows = features if features is not None else pixel_values
    if rows is None:
        raise TypeError("neither features nor pixel_values is given")
    rows = rows.flatten(1)
    if rows.shape[1] != inputs:
        raise TrainingFailed(
            f"a sample has {rows.shape[1]} numbers, the model takes {inputs}",
            where="model",
            remedy=f"set inputs of model.linear or model.mlp to {rows.shape[1]}, or bring all pictures to one size",
        )
    return rows
