"""Statistics that forward passes keep, as BatchNorm does, the same on every rank after every step.

Called by train/engine.py. Each rank has seen other samples, so their mean over the ranks is what the run goes on with,
evaluates by and saves; then an unchanged world is bit-equal wherever it is stopped. Whole numbers, as the count of
batches, are the same on all ranks by themselves."""

import torch
from torch import nn

from orchestrator.train.models.tensors import own_tensors


class BatchStatistics:
    """All persistent buffers of numbers with a fraction. Those that never change stay as they are, to the bit."""

    def __init__(self, module: nn.Module) -> None:
        tensors = (tensor for _, tensor in own_tensors(module) if not isinstance(tensor, nn.Parameter))
        self._buffers = [buffer for buffer in tensors if buffer.is_floating_point() and buffer.numel()]
        self._row = self._collect()

    def average(self) -> None:
        """Collective, one all-reduce; in float64, in which the mean of equal numbers is that number."""
        if not self._buffers:
            return
        self._row = self._collect()
        torch.distributed.all_reduce(self._row)
        self._row /= torch.distributed.get_world_size()
        self.put_back()

    @torch.no_grad()
    def put_back(self) -> None:
        """As they were after the last average: what an update that is not applied has seen is forgotten."""
        start = 0
        for buffer in self._buffers:
            buffer.copy_(self._row[start : start + buffer.numel()].view(buffer.shape))
            start += buffer.numel()

    def _collect(self) -> torch.Tensor:
        rows = [buffer.detach().flatten().double() for buffer in self._buffers]
        return torch.cat(rows) if rows else torch.empty(0)
