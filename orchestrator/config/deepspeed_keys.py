"""DeepSpeed's own JSON keys (0.19): which may stand under `deepspeed:`, which Longhaul owns, which are refused and why.

Allowed are those that are known to keep fragments right at their ZeRO stages; docs/deepspeed.md shows these tables.
deepspeed_check.py holds every config against them; train/engine.py adds the owned keys for DeepSpeed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.config.run import RunConfig

Takes = str | tuple[str | int, ...]
SWITCH, COUNT = "true or false", "a whole number, 0 or more"
DTYPES = ("fp32", "bf16", "fp16")
OFFLOAD = ("none", "cpu")
ANY_STAGE, SHARDED, PARTITIONED, WEIGHTS = (0, 1, 2, 3), (1, 2, 3), (1, 2), (3,)


@dataclass(frozen=True, slots=True)
class Allowed:
    """What an allowed key takes (SWITCH, COUNT or choices), and at which ZeRO stages it has an effect."""

    takes: Takes
    stages: tuple[int, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Owned:
    """A key that Longhaul sets. `value` gives what it will be, None where that depends on the world."""

    by: str
    value: Callable[["RunConfig"], Any]


def in_words(takes: Takes) -> str:
    return takes if isinstance(takes, str) else " or ".join(map(str, takes))


_NVME = "nvme is refused: state in swap files cannot be read as fragments"

ALLOWED: dict[str, Allowed] = {
    "zero_optimization.stage": Allowed((0, 1, 2, 3), ANY_STAGE),
    "zero_optimization.contiguous_gradients": Allowed(SWITCH, SHARDED),
    "zero_optimization.reduce_scatter": Allowed(SWITCH, SHARDED),
    "zero_optimization.reduce_bucket_size": Allowed(COUNT, SHARDED, "counted in elements"),
    "zero_optimization.allgather_bucket_size": Allowed(COUNT, PARTITIONED, "counted in elements"),
    "zero_optimization.allgather_partitions": Allowed(SWITCH, PARTITIONED),
    "zero_optimization.use_multi_rank_bucket_allreduce": Allowed(SWITCH, PARTITIONED),
    "zero_optimization.overlap_comm": Allowed(SWITCH, SHARDED),
    "zero_optimization.ignore_unused_parameters": Allowed(SWITCH, PARTITIONED),
    "zero_optimization.parameter_alignment": Allowed(SWITCH, PARTITIONED),
    "zero_optimization.sub_group_size": Allowed(COUNT, WEIGHTS, "counted in elements"),
    "zero_optimization.offload_optimizer.device": Allowed(OFFLOAD, SHARDED, _NVME),
    "zero_optimization.offload_optimizer.pin_memory": Allowed(SWITCH, SHARDED),
    "zero_optimization.offload_param.device": Allowed(OFFLOAD, WEIGHTS, _NVME),
    "zero_optimization.offload_param.pin_memory": Allowed(SWITCH, WEIGHTS),
    "zero_optimization.stage3_prefetch_bucket_size": Allowed(COUNT, WEIGHTS, "counted in elements"),
    "zero_optimization.stage3_param_persistence_threshold": Allowed(COUNT, WEIGHTS, "counted in elements"),
    "zero_optimization.stage3_model_persistence_threshold": Allowed(COUNT, WEIGHTS, "counted in elements"),
    "zero_optimization.stage3_max_live_parameters": Allowed(COUNT, WEIGHTS, "counted in elements"),
    "zero_optimization.stage3_max_reuse_distance": Allowed(COUNT, WEIGHTS, "counted in elements"),
    "zero_optimization.stage3_module_granularity_threshold": Allowed(COUNT, WEIGHTS),
    "zero_optimization.stage3_use_all_reduce_for_fetch_params": Allowed(SWITCH, WEIGHTS),
    "zero_optimization.stage3_allgather_sequential": Allowed(SWITCH, WEIGHTS),
    "zero_optimization.log_trace_cache_warnings": Allowed(SWITCH, WEIGHTS),
    "zero_optimization.enable_sanity_checks": Allowed(SWITCH, WEIGHTS),
    "data_types.grad_accum_dtype": Allowed(DTYPES, ANY_STAGE, "at stage 0 it must be train.precision"),
    "communication_data_type": Allowed(DTYPES, ANY_STAGE),
    "wall_clock_breakdown": Allowed(SWITCH, ANY_STAGE, "slower: waits for the device at every part of a step"),
    "memory_breakdown": Allowed(SWITCH, ANY_STAGE),
    "dump_state": Allowed(SWITCH, ANY_STAGE),
}

OWNED: dict[str, Owned] = {
    "train_batch_size": Owned("train.global_batch", lambda c: c.train.global_batch),
    "train_micro_batch_size_per_gpu": Owned(
        "train.micro_batch", lambda c: None if c.train.micro_batch == "auto" else c.train.micro_batch
    ),
    "gradient_accumulation_steps": Owned("train.global_batch, train.micro_batch and the world", lambda _: None),
    "gradient_clipping": Owned("train.clip_norm", lambda c: c.train.clip_norm or 0.0),
    "bf16.enabled": Owned("train.precision", lambda c: c.train.precision == "bf16"),
    "fp16.enabled": Owned("train.precision", lambda c: c.train.precision == "fp16"),
    "gradient_allreduce_op": Owned("Longhaul's normalisation by the global batch", lambda _: "mean"),
    "zero_allow_untested_optimizer": Owned("Longhaul, which brings its own optimizer", lambda _: True),
    "zero_force_ds_cpu_optimizer": Owned("Longhaul, which brings its own optimizer", lambda _: False),
}

_REMOVED = "DeepSpeed 0.19 has removed it"
_NOT_PROVEN = "not proven to keep fragments right"
_QUANTIZED = "quantized state cannot be moved to another world bit by bit"
_ORDER = "which samples a step has is arithmetic on the step: see data.phases"
_DATA_PARALLEL = "only data parallelism is supported"
_TRACKING = "ranks write no metrics: see tracking"
_SCALER = "only the default search for a loss scale has been tried with fragments"
_NVME_ONLY = "it only serves nvme offload, whose swap files cannot be read as fragments"
_CHECKPOINTS = "Longhaul writes checkpoints itself: see checkpoint"
_RENAMED = "deprecated in DeepSpeed; set zero_optimization.{0}"

REFUSED: dict[str, str] = {
    "optimizer": "Longhaul builds the optimizer: see optim",
    "scheduler": "the learning rate is set from the step: see schedule",
    "elasticity": f"{_REMOVED}; any world size works here: see cluster.nodes",
    "amp": f"{_REMOVED}; set train.precision",
    "torch_autocast": "it is a second kind of mixed precision; set train.precision",
    "curriculum_learning": f"{_REMOVED}; {_ORDER}",
    "data_efficiency": _ORDER,
    "dataloader_drop_last": _ORDER,
    "sparse_gradients": _REMOVED,
    "sparse_attention": _REMOVED,
    "progressive_layer_drop": _REMOVED,
    "compression_training": _REMOVED,
    "quantize_training": _REMOVED,
    "eigenvalue": _REMOVED,
    "graph_harvesting": _REMOVED,
    "nebula": f"{_REMOVED}; {_CHECKPOINTS}",
    "checkpoint": _CHECKPOINTS,
    "datastates_ckpt": _CHECKPOINTS,
    "weight_quantization": _QUANTIZED,
    "prescale_gradients": "the gradient is normalised by the global batch, which this would undo in part",
    "gradient_predivide_factor": "the gradient is normalised by the global batch, which this would undo in part",
    "managed_gradient_accumulation": "Longhaul relies on DeepSpeed to find the end of a step",
    "disable_allgather": "DeepSpeed no longer reads it",
    "vocabulary_size": "it only prints a warning; the model's vocab_size counts",
    "steps_per_print": "Longhaul shows progress itself: see train.log_every",
    "log_level": "Longhaul sets the loggers' levels",
    "disable_python_gc": "Longhaul decides when garbage is collected",
    "tensorboard": _TRACKING,
    "wandb": _TRACKING,
    "csv_monitor": _TRACKING,
    "comet": _TRACKING,
    "flops_profiler": f"{_NOT_PROVEN}: its hooks stay on the module",
    "comms_logger": _NOT_PROVEN,
    "timers": _NOT_PROVEN,
    "autotuning": "it starts runs of its own",
    "compile": _NOT_PROVEN,
    "hybrid_engine": "it serves inference between updates",
    "activation_checkpointing": "it has no effect on transformers models",
    "aio": _NVME_ONLY,
    "tensor_parallel": _DATA_PARALLEL,
    "expert_parallel": _DATA_PARALLEL,
    "pipeline": _DATA_PARALLEL,
    "sequence_parallel_size": _DATA_PARALLEL,
    "data_parallel_size": _DATA_PARALLEL,
    "seq_parallel_communication_data_type": _DATA_PARALLEL,
    "use_data_before_expert_parallelism": _DATA_PARALLEL,
    "bfloat16": "the old name of bf16; set train.precision",
    "bf16.immediate_grad_update": _NOT_PROVEN,
    "bf16.check_grad_overflow": "Longhaul relies on updates that are not finite being left out",
    "bf16.bf16_master_weights_and_grads": "fragments hold fp32 master weights",
    "bf16.bf16_optimizer_states": "fragments hold fp32 optimizer state",
    "fp16.auto_cast": _NOT_PROVEN,
    "fp16.loss_scale": _SCALER,
    "fp16.initial_scale_power": _SCALER,
    "fp16.loss_scale_window": _SCALER,
    "fp16.hysteresis": _SCALER,
    "fp16.consecutive_hysteresis": _SCALER,
    "fp16.min_loss_scale": _SCALER,
    "fp16.fp16_master_weights_and_grads": "fragments hold fp32 master weights",
    "data_types.param_dtype": "set train.precision",
    "data_types.buffer_dtype": _NOT_PROVEN,
    "data_types.keep_in_fp32_modules": _NOT_PROVEN,
    "zero_optimization.round_robin_gradients": "DeepSpeed then misreports which rank holds which part of a parameter",
    "zero_optimization.compute_grad_norm": "the gradient norm is shown at every step",
    "zero_optimization.elastic_checkpoint": _CHECKPOINTS,
    "zero_optimization.load_from_fp32_weights": _CHECKPOINTS,
    "zero_optimization.pipeline_loading_checkpoint": _CHECKPOINTS,
    "zero_optimization.stage3_gather_16bit_weights_on_model_save": _CHECKPOINTS,
    "zero_optimization.stage3_gather_fp16_weights_on_model_save": _CHECKPOINTS,
    "zero_optimization.legacy_stage1": _REMOVED,
    "zero_optimization.zenflow": f"{_NOT_PROVEN}: it delays part of the updates",
    "zero_optimization.zero_hpz_partition_size": f"{_NOT_PROVEN}: weights are held twice",
    "zero_optimization.zero_quantized_weights": _QUANTIZED,
    "zero_optimization.zero_quantized_nontrainable_weights": _QUANTIZED,
    "zero_optimization.zero_quantized_gradients": _QUANTIZED,
    "zero_optimization.zeropp_loco_param": _REMOVED,
    "zero_optimization.mics_shard_size": _REMOVED,
    "zero_optimization.mics_hierarchical_params_gather": _REMOVED,
    "zero_optimization.memory_efficient_linear": _NOT_PROVEN,
    "zero_optimization.override_module_apply": _NOT_PROVEN,
    "zero_optimization.leaf_module": _NOT_PROVEN,
    "zero_optimization.save_muon_momentum_buffer_in_memory": "the Muon optimizer is not supported",
    "zero_optimization.cpu_offload": _RENAMED.format("offload_optimizer.device to cpu"),
    "zero_optimization.cpu_offload_param": _RENAMED.format("offload_param.device to cpu"),
    "zero_optimization.cpu_offload_use_pin_memory": _RENAMED.format("offload_optimizer.pin_memory"),
    "zero_optimization.offload_optimizer.nvme_path": _NVME_ONLY,
    "zero_optimization.offload_optimizer.buffer_count": _NVME_ONLY,
    "zero_optimization.offload_optimizer.pipeline_read": _NVME_ONLY,
    "zero_optimization.offload_optimizer.pipeline_write": _NVME_ONLY,
    "zero_optimization.offload_optimizer.fast_init": _NVME_ONLY,
    "zero_optimization.offload_optimizer.ratio": f"{_NOT_PROVEN}: state would lie in two places",
    "zero_optimization.offload_optimizer.super_offload": _NOT_PROVEN,
    "zero_optimization.offload_optimizer.cpuadam_cores_perc": _NOT_PROVEN,
    "zero_optimization.offload_param.nvme_path": _NVME_ONLY,
    "zero_optimization.offload_param.buffer_count": _NVME_ONLY,
    "zero_optimization.offload_param.buffer_size": _NVME_ONLY,
    "zero_optimization.offload_param.max_in_cpu": _NVME_ONLY,
}
