"""Which way each metric of a validation gets better: one table for early stopping, the plateau schedule, and which
checkpoints stay."""

import math
from collections.abc import Mapping

LARGER_IS_BETTER = {
    "loss": False,
    "perplexity": False,
    "mse": False,
    "mae": False,
    "accuracy": True,
    "precision": True,
    "recall": True,
    "f1": True,
    "roc_auc": True,
    "r2": True,
}


def cost_of(metrics: Mapping[str, float], name: str) -> float:
    """What a validation gave for the metric `name`, turned so that smaller is better; infinite where it is missing or
    no number: that is never better than another."""
    value = metrics.get(name, math.nan)
    cost = -value if LARGER_IS_BETTER[name] else value
    return math.inf if math.isnan(cost) else cost
