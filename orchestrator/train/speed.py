"""How fast a run is and how much memory it takes: a few numbers every train.log_every steps. Called by loop.py."""

import resource

import torch

from orchestrator.config.run import RunConfig
from orchestrator.core.news import Number
from orchestrator.core.words import World
from orchestrator.train.agreement import max_over_ranks
from orchestrator.train.flops import flops_of_one, peak_flops
from orchestrator.train.tasks.task import Fields, Task


class Speedometer:
    """Adds up the steps since it last told; MFU only where the device's peak is known."""

    def __init__(self, config: RunConfig, world: World, device: torch.device) -> None:
        self._every, self._last_step = config.train.log_every, config.train.num_steps - 1
        self._world, self._device = world, device
        self._fed_name = "samples" if config.packed_len is None else "tokens"
        self._flops: float | None = None  # of one of them, as a share of what all devices can do in a second
        self._fed = self._busy_s = 0.0

    def learn_flops(self, config: RunConfig, vocab_size: int | None, task: Task, fields: Fields) -> None:
        """Costs a model on the meta device, so it is asked for where there is a peak to hold it against."""
        if self._device.type != "cuda":
            return
        peak = peak_flops(torch.cuda.get_device_name(self._device), config.train.precision)
        flops = flops_of_one(config, vocab_size, task, fields) if peak is not None else None
        if peak is not None and flops is not None:
            self._flops = flops / (peak * self._world.size)

    def take(self, step: int, fed: float, step_s: float) -> dict[str, Number]:
        """Called on all ranks alike; columns of metrics.jsonl, in most steps none."""
        self._fed, self._busy_s = self._fed + fed, self._busy_s + step_s
        if (step + 1) % self._every and step != self._last_step:
            return {}
        rate = self._fed / self._busy_s
        self._fed = self._busy_s = 0.0
        told: dict[str, Number] = {f"{self._fed_name}_per_s": rate}
        if self._flops is not None:
            told["mfu"] = rate * self._flops
        return told | {"memory_peak_gb": max_over_ranks(peak_bytes(self._device)) / 2**30}


def peak_bytes(device: torch.device) -> int:
    """The most that this rank has held: what torch has allocated on CUDA, the whole process otherwise."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
