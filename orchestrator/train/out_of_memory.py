"""A step that does not fit: what it was made of, what is known of the bytes, and the smallest change that may help.

Called by loop.py when the device or the process has no memory left."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from orchestrator.core.errors import TrainingFailed
from orchestrator.train.job import TrainJob
from orchestrator.train.memory import read_offload
from orchestrator.train.speed import peak_bytes

_CPU = re.compile(r"you tried to allocate (\d+) bytes")  # torch on the CPU raises a RuntimeError of its own
_CUDA = re.compile(r"[Tt]ried to allocate ([\d.]+) ([KMG])iB")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


@contextmanager
def memory_explained(job: TrainJob, step: Callable[[], int] = lambda: 0) -> Iterator[None]:
    """Running out of memory inside the block becomes an error that says what to change."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise explain_out_of_memory(job, step(), error) from error


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or bool(_CPU.search(str(error)))


def explain_out_of_memory(job: TrainJob, step: int, error: BaseException) -> TrainingFailed:
    """What to raise instead."""
    told = [f"out of memory on rank {job.world.rank}", _describe_batch(job, step), *_describe_bytes(job, error)]
    return TrainingFailed("; ".join(told), where=f"step {step}", remedy=find_remedy(job))


def find_remedy(job: TrainJob) -> str:
    """The first of the changes that is left: those before it cost less."""
    return next(_changes(job), "train on more ranks at ZeRO stage 3, or on devices with more memory")


def _changes(job: TrainJob) -> Iterator[str]:
    """None of them changes which samples a step has, so a run can be resumed with them."""
    config = job.config
    stage, offloaded = config.zero_stage, read_offload(config.deepspeed.get("zero_optimization", {}))
    if job.micro_batch > 1:
        yield f"train.micro_batch={-(-job.micro_batch // 2)}: the same steps in more parts"
    if not config.train.checkpoint_activations:
        yield "train.checkpoint_activations=true: about a third more arithmetic"
    if stage < 3 and job.world.data_size > 1:
        yield f"deepspeed.zero_optimization.stage={stage + 1}: state is shared among {job.world.data_size} ranks"
    if torch.device(job.device).type == "cpu":
        return
    if stage == 0:
        yield "deepspeed.zero_optimization.stage=1 with offload_optimizer={device: cpu}"
    elif "optimizer" not in offloaded:
        yield "deepspeed.zero_optimization.offload_optimizer={device: cpu}: slower updates"
    elif stage == 3 and "parameters" not in offloaded:
        yield "deepspeed.zero_optimization.offload_param={device: cpu}: slower"


def _describe_batch(job: TrainJob, step: int) -> str:
    """The equation of the step's batch, with its values."""
    config = job.config
    batch, length = config.train.global_batch, config.packed_len
    for phase in config.data.phases:  # in order of their steps
        if phase.from_step <= step:
            batch, length = phase.global_batch or batch, phase.seq_len or length
    sequences = f" sequences of {length} tokens" if length is not None else " samples"
    return (
        f"{batch}{sequences} a step = {job.world.data_size} ranks x at most {job.micro_batch} at once x "
        f"{job.accumulation} times"
    )


def _describe_bytes(job: TrainJob, error: BaseException) -> Iterator[str]:
    asked = asked_bytes(str(error))
    if asked is not None:
        yield f"{_gib(asked)} more were asked for"
    device = torch.device(job.device)
    if device.type == "cuda":
        total = torch.cuda.mem_get_info(device)[1]
        yield f"{_gib(peak_bytes(device))} were in use at most, of {_gib(total)}"
    else:
        yield f"the process had {_gib(peak_bytes(device))} at most"


def asked_bytes(message: str) -> int | None:
    """What an allocator says it could not give."""
    if match := _CPU.search(message):
        return int(match[1])
    if match := _CUDA.search(message):
        return int(float(match[1]) * _UNITS[match[2]])
    return None


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.2f} GiB"
