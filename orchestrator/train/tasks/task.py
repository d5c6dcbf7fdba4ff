"""A task: what the loop asks of it. The protocol is the same for Longhaul's own tasks and for a user's.

A task returns sums, never means: the loop divides by the weight of the whole global batch, so that any slicing over
ranks and micro-batches gives the same gradient.

A user's own task (`task.name: package.module:Class`) is a class with the two methods of Task, made as
`Class(config, manifest)`. Its collate is given the arrays of some samples by field, each with one row a sample: those
of data.fields, or of data.table `features` and `target`, or of prepare.tokens `tokens` and `length` in place of the
field `text`; and always `weights` (float32; 0 for what does not count) and `draw_keys`. Its step calls the model
once and returns Measured. A sample's loss must depend on that sample alone; random numbers come from torch's generator,
which the loop has seeded. Of a task of ours the step alone can be replaced (`task.step: package.module:function`): the
function is given the model and what the task's collate made, and returns Measured or the weighted sum of the losses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

Fields = Mapping[str, NDArray[Any]]
Inputs = dict[str, torch.Tensor]
Forward = Callable[..., Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What a step says about some samples. Those of weight zero take no part in anything.

    `loss` is the weighted sum of their losses, a float32 scalar to go backward from; `sums` are further weighted sums.
    `outputs` and `targets` have a row for each of `weights`: the metrics of a validation are computed from them. A task
    whose metrics follow from the loss alone leaves them out."""

    loss: torch.Tensor
    sums: Mapping[str, torch.Tensor] = field(default_factory=dict)
    outputs: torch.Tensor | None = None  # logits [n, classes] or values [n], float32
    targets: torch.Tensor | None = None  # classes [n] or values [n]
    weights: torch.Tensor | None = None  # [n]


class Task(Protocol):
    """Made once a rank, as `cls(config, manifest)`."""

    def collate(self, fields: Fields, device: torch.device) -> Inputs:
        """Some samples as tensors on the device: what step is given."""
        ...

    def step(self, forward: Forward, inputs: Inputs) -> Measured:
        """`forward` is the model: call it once, with the model's inputs by name."""
        ...


def move(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def logits_of(output: Any) -> torch.Tensor:
    """What a model returns: a tensor, or an object that has it as `logits`, as those of transformers do."""
    logits: torch.Tensor = output if isinstance(output, torch.Tensor) else output.logits
    return logits.float()
