"""data.mixup: each picture is mixed with the next one of the global batch, and its loss is that of both labels.

A batch is a ring: after the last sample comes the first. The order has shuffled it, so the next one is a random one,
and a rank needs one sample beyond its slice (sampled.py reads it, slices.py hands it on). Which two are mixed, and in
which share, follows from the step and the sample alone, on any world."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from orchestrator.core.keyed import Keys
from orchestrator.data.decoding.draws import Draws
from orchestrator.train.tasks.task import Forward, Inputs, Task

MIXED = ("labels", "weights")  # what a task must return beside pictures
OTHER_LABELS, SHARES = "mixup_labels", "mixup_shares"


def draw_shares(keys: Keys, alpha: float) -> NDArray[np.float64]:
    """What each picture keeps of itself, from Beta(alpha, alpha)."""
    from scipy.special import betaincinv  # costs a fifth of a second

    return np.asarray(betaincinv(alpha, alpha, Draws(keys).uniform("mixup.share")))


def mix(inputs: Inputs, keys: Keys, alpha: float) -> Inputs:
    """From n + 1 samples n mixed ones. A sample whose next one does not count (a hole) stays as it is."""
    pixels, counts = inputs["pixel_values"], inputs["weights"][1:] > 0
    drawn = torch.from_numpy(draw_shares(keys[:-1], alpha)).to(pixels.device, pixels.dtype)
    shares = torch.where(counts, drawn, 1.0)
    own = shares[:, None, None, None]
    mixed = {name: tensor[:-1] for name, tensor in inputs.items()}
    mixed |= {"pixel_values": pixels[:-1] * own + pixels[1:] * (1 - own)}
    return mixed | {OTHER_LABELS: inputs["labels"][1:], SHARES: shares}


def sum_losses(task: Task, forward: Forward, inputs: Inputs) -> torch.Tensor:
    """The loss of a task's step. Of mixed pictures it is taken twice on one forward pass: with their own labels, and
    with the others', each weighted by its share. So the task need not know."""
    if SHARES not in inputs:
        return task.step(forward, inputs).loss
    given = {name: tensor for name, tensor in inputs.items() if name not in (OTHER_LABELS, SHARES)}
    outputs: list[Any] = []

    def run_once(**fed: torch.Tensor) -> Any:
        if not outputs:
            outputs.append(forward(**fed))
        return outputs[0]

    shares, weights = inputs[SHARES], inputs["weights"]
    own = task.step(run_once, given | {"weights": weights * shares}).loss
    return own + task.step(run_once, given | {"labels": inputs[OTHER_LABELS], "weights": weights * (1 - shares)}).loss
