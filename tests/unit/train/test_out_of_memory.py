"""What a step that does not fit is told to change, in the order of what it costs."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from orchestrator.core.words import World
from orchestrator.train.out_of_memory import asked_bytes, find_remedy, is_out_of_memory
from tests.fakes.small_runs import small_config


@dataclass
class Job:
    """What the explanation asks of a TrainJob."""

    config: Any
    micro_batch: int = 1
    world: World = field(default_factory=lambda: World.flat(0, 4))
    device: str = "cuda:0"


def job_at(stage: int, micro_batch: int = 1, *, again: bool = True, device: str = "cuda:0", **zero: Any) -> Job:
    deepspeed = {"zero_optimization": {"stage": stage, **zero}}
    config = small_config(train={"checkpoint_activations": again}, deepspeed=deepspeed)
    return Job(config=config, micro_batch=micro_batch, device=device)


@pytest.mark.parametrize(
    ("job", "remedy"),
    [
        (job_at(0, micro_batch=5, again=False), "train.micro_batch=3"),
        (job_at(0, again=False), "train.checkpoint_activations=true"),
        (job_at(1), "deepspeed.zero_optimization.stage=2"),
        (job_at(3), "deepspeed.zero_optimization.offload_optimizer={device: cpu}"),
        (job_at(3, offload_optimizer={"device": "cpu"}), "deepspeed.zero_optimization.offload_param={device: cpu}"),
        (job_at(3, device="cpu"), "train on more ranks"),
    ],
)
def test_the_cheapest_change_that_is_left_is_named(job, remedy):
    assert find_remedy(job).startswith(remedy)


def test_one_rank_gains_nothing_from_a_higher_stage():
    job = job_at(1)
    job.world = World.flat(0, 1)
    assert "offload_optimizer" in find_remedy(job)


def test_torch_on_the_cpu_and_python_run_out_of_memory_too():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert asked_bytes(str(caught.value)) == 2**60
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("Connection closed by peer"))


def test_what_cuda_could_not_give_is_read_from_its_message():
    assert asked_bytes("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has") == 20 * 2**20
    assert asked_bytes("CUDA out of memory") is None
