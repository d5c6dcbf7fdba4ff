"""How many bytes of model state a rank needs, by arithmetic on the model's description. For `longhaul plan`; no torch.

Activations and the memory of libraries are left out: they depend on micro-batch, kernels and allocator, so what is
given here is the least a rank needs. The letters: P trainable parameters, F frozen ones, b bytes of an element in the
precision of forward and backward (4 or 2), N ranks that share the state, P/N rounded up."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.config.run import RunConfig
from orchestrator.config.training import OptimSection
from orchestrator.train.models.description import ModelDescription

Precision = Literal["fp32", "bf16", "fp16"]
Offload = Literal["optimizer", "parameters"]

BYTES_OF = {"fp32": 4, "bf16": 2, "fp16": 2}
BUCKETS_OF_STAGE = (0, 1, 1, 2)
BUCKET_ELEMENTS = 500_000_000  # DeepSpeed's default of reduce_bucket_size


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """Bytes a rank, by purpose: on the device that computes, and in host memory when offloaded there."""

    device: dict[str, int]
    host: dict[str, int]

    @property
    def device_bytes(self) -> int:
        return sum(self.device.values())

    @property
    def host_bytes(self) -> int:
        return sum(self.host.values())


def plan_memory(config: RunConfig, description: ModelDescription, world_size: int, stage: int) -> MemoryPlan:
    """state_memory with everything else from the config, at any stage."""
    zero = config.deepspeed.get("zero_optimization", {})
    return state_memory(
        description,
        stage=stage,
        world_size=world_size,
        precision=config.train.precision,
        optim=config.optim,
        offload=read_offload(zero),
        accumulate=config.deepspeed.get("data_types", {}).get("grad_accum_dtype"),
        bucket_elements=int(zero.get("reduce_bucket_size", BUCKET_ELEMENTS)),
    )


def state_memory(
    description: ModelDescription,
    *,
    stage: int,
    world_size: int,
    precision: Precision,
    optim: OptimSection,
    offload: frozenset[Offload] = frozenset(),
    accumulate: Precision | None = None,
    bucket_elements: int = BUCKET_ELEMENTS,
) -> MemoryPlan:
    """What one of `world_size` ranks holds between and during steps at this ZeRO stage."""
    b = BYTES_OF[precision]
    trainable, everything = description.num_trainable, description.num_parameters
    share = -(-trainable // world_size)
    owned = trainable if stage == 0 else share
    device = {
        # b(P+F); at stage 3 b(P+F)/N
        "parameters": b * (everything if stage < 3 else -(-everything // world_size)),
        "buffers": 4 * sum(tensor.numel for tensor in description.tensors if tensor.kind == "buffer"),
        # bP; from stage 2 on bP/N; b is that of the accumulation where it is stated
        "gradients": BYTES_OF[accumulate or precision] * (trainable if stage < 2 else share),
        # 4P, or 4P/N from stage 1 on; in fp32 the parameters of stages 0 and 3 are their own master copy
        "master": 0 if precision == "fp32" and stage in (0, 3) and "optimizer" not in offload else 4 * owned,
        "optimizer": 4 * optimizer_states(optim) * owned,
        # the owned gradients once more while the update runs, in fp32; in fp32 stage 0 and 3 update in place
        "update": 0 if precision == "fp32" and stage in (0, 3) else 4 * owned,
        # gradients on their way to their owner; two buckets at stage 3, where sending overlaps with backward. DeepSpeed
        # sets whole buckets aside, of which a small model never touches more than its own size
        "buckets": b * min(bucket_elements, trainable) * BUCKETS_OF_STAGE[stage] if world_size > 1 else 0,
        # at least the largest layer is whole at a time: b times its parameters, beyond the rank's own share
        "gathered": b * description.largest_block if stage == 3 and world_size > 1 else 0,
    }
    moved: list[str] = ["master", "optimizer", "update"] if "optimizer" in offload else []
    moved += ["parameters"] if "parameters" in offload and stage == 3 else []
    host = {purpose: device.pop(purpose) for purpose in moved}
    return MemoryPlan(device=device, host=host)


def snapshot_bytes(config: RunConfig, description: ModelDescription) -> int:
    """What the parts of all ranks have together: each element once, trainable ones in fp32 with their states."""
    trainable, frozen = description.num_trainable, description.num_parameters - description.num_trainable
    buffers = sum(tensor.numel for tensor in description.tensors if tensor.kind == "buffer")
    return (
        4 * (1 + optimizer_states(config.optim)) * trainable + BYTES_OF[config.train.precision] * frozen + 4 * buffers
    )


def optimizer_states(optim: OptimSection) -> int:
    """fp32 values kept for each parameter: two moments, a momentum or a sum of squares, or none."""
    if optim.name == "sgd":
        return 1 if optim.momentum else 0
    return 2 if optim.name in ("adam", "adamw") else 1


def read_offload(zero_optimization: Mapping[str, Any]) -> frozenset[Offload]:
    """What DeepSpeed's own keys move to host memory."""
    keys: dict[str, Offload] = {"offload_optimizer": "optimizer", "offload_param": "parameters"}
    device_of = {what: (zero_optimization.get(key) or {}).get("device", "none") for key, what in keys.items()}
    return frozenset(what for what, device in device_of.items() if device == "cpu")
