"""What a run will need before anything is started: model, batch arithmetic, memory.

Behind `longhaul plan`, and the check before every run."""

import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal

import xxhash

from launch.checks.limits import read_limits, usable_memory
from launch.screen import Screen
from orchestrator.config.resolve import Facts, WorldPlan, resolve_world
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import ConfigError, DataError, DoesNotFit
from orchestrator.data.ordering.row import Shuffling
from orchestrator.data.shards.source import Dataset
from orchestrator.storage.publish import publish_json, read_json
from orchestrator.train.memory import MemoryPlan, plan_memory, snapshot_bytes
from orchestrator.train.models.description import ModelDescription

STAGES = (0, 1, 2, 3)
NODE_SHARE = 0.8  # of a node's memory; the rest is for libraries, data on its way, and the system


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldRow:
    """One world size: how the batch is cut and what a rank holds at each ZeRO stage."""

    nodes: int
    plan: WorldPlan
    memory: dict[int, MemoryPlan]


@dataclass(frozen=True, kw_only=True, slots=True)
class LanePlan:
    """Lanes of the source with the largest share, in the first unit of a run and over a whole epoch."""

    first_unit: int
    epoch: int


def plan_lanes(config: RunConfig, shards_by_segment: Sequence[int]) -> LanePlan:
    data = config.data
    shuffling = Shuffling(window_samples=data.window_samples, lanes=data.lanes, enabled=data.shuffle)
    first = next(filter(None, shards_by_segment), 0)  # a source may have nothing in the first segment
    return LanePlan(first_unit=shuffling.lanes_of(first), epoch=shuffling.lanes_of(sum(shards_by_segment)))


def list_segments(config: RunConfig) -> list[int] | None:
    """Shards of the source with the largest share, by segment; None where the data is not here, or not yet."""
    if any("://" in source.path for source in config.data.train):
        return None  # a store may take minutes to list
    try:
        dataset = Dataset.list(config.data)
    except DataError:
        return None  # what is wrong with the data is told when it is prepared; a plan needs none
    main = main_source(config)
    return [sum(dataset.shards[n].source == main for n in segment.ordinals) for segment in dataset.segments]


def main_source(config: RunConfig) -> int:
    """The place in data.train of the source with the largest share."""
    weights = [source.weight for source in config.data.train]
    return weights.index(max(weights))


def describe_cached(config: RunConfig, vocab_size: int | None, *, begins: bool = True) -> ModelDescription:
    """The model's description; building it costs seconds of imports, so it is kept in a work folder that exists.

    A run that goes on instead of beginning no longer needs the weights that it began with."""
    path = Path(config.data.work) / "models" / f"{_description_key(config, vocab_size, begins)}.json"
    changeable = config.model.custom is not None  # its code may change without a sign
    if path.exists() and not changeable:
        return ModelDescription.from_json(read_json(path))
    from orchestrator.train.models.build import describe_model

    description = describe_model(config, vocab_size, begins=begins)
    if Path(config.data.work).is_dir() and not changeable:
        publish_json(path, description.to_json())
    return description


def know_memory(config: RunConfig, facts: Facts, vocab_size: int | None, description: ModelDescription) -> Facts:
    """With what the choices of train.micro_batch and of snapshots depend on."""
    device = facts.device if config.cluster.device == "auto" else config.cluster.device
    smallest = config.cluster.nodes.min * config.cluster.ranks_per_node  # where a rank holds most of the state
    state = plan_memory(config, description, smallest, config.zero_stage)
    in_memory = state.host_bytes + (state.device_bytes if device == "cpu" else 0)
    node_free = max(0, int(NODE_SHARE * (facts.node_bytes or 0)) - config.cluster.ranks_per_node * in_memory)
    facts = replace(
        facts,
        snapshot_bytes=snapshot_bytes(config, description),
        node_free_bytes=node_free if facts.node_bytes else None,
    )
    if config.train.micro_batch != "auto":
        return facts
    limit = memory_of_a_rank(config, device)
    free = None if limit is None else max(0, limit - state.device_bytes)
    return replace(facts, activation_bytes=_count_cached(config, vocab_size), free_bytes=free)


def _count_cached(config: RunConfig, vocab_size: int | None) -> int | None:
    """Bytes of a sample's activations. Counting runs the model on fake tensors, seconds for a large one, so what came
    of it is kept beside the model's description."""
    lengths = [phase.seq_len for phase in config.data.phases]
    facts = [_description_key(config, vocab_size, begins=False), config.train.precision, lengths, "activations"]
    path = Path(config.data.work) / "models" / f"{xxhash.xxh3_128_hexdigest(json.dumps(facts).encode())}.json"
    changeable = config.model.custom is not None
    if path.exists() and not changeable:
        bytes_known: int | None = read_json(path)["activation_bytes"]
        return bytes_known
    from orchestrator.train.activations import count_activations

    counted = count_activations(config, vocab_size)
    if Path(config.data.work).is_dir() and not changeable:
        publish_json(path, {"format": 1, "activation_bytes": counted})
    return counted


def _description_key(config: RunConfig, vocab_size: int | None, begins: bool) -> str:
    versions = {name: importlib.metadata.version(name) for name in ("longhaul", "torch", "transformers")}
    layout = [field.name for field in fields(ModelDescription)]
    sections = [config.model, config.task, *([config.data.table] if config.data.table else [])]
    facts = [[section.model_dump(mode="json") for section in sections], config.train.checkpoint_activations]
    facts += [vocab_size, versions, layout, begins, _stamps(config)]
    return xxhash.xxh3_128_hexdigest(json.dumps(facts, sort_keys=True).encode())


def _stamps(config: RunConfig) -> list[tuple[str, int]]:
    """The files that the model begins with, each with the time of its last change."""
    stated = config.model.pretrained or config.model.weights
    if stated is None:
        return []
    path = Path(stated)
    files = [path, *sorted(path.glob("*.json")), *sorted(path.glob("*.safetensors"))]
    return [(str(file), file.stat().st_mtime_ns) for file in files if file.exists()]


def tell_new_tensors(description: ModelDescription, screen: Screen) -> None:
    if description.begins_anew:
        screen.say(f"begin anew, since the weights do not bring them: {', '.join(description.begins_anew)}")


def plan_worlds(config: RunConfig, facts: Facts, description: ModelDescription, nodes: Sequence[int]) -> list[WorldRow]:
    return [_plan_world(config, facts, description, count) for count in nodes]


def _plan_world(config: RunConfig, facts: Facts, description: ModelDescription, nodes: int) -> WorldRow:
    size = nodes * config.cluster.ranks_per_node
    memory = {stage: plan_memory(config, description, size, stage) for stage in STAGES}
    return WorldRow(nodes=nodes, plan=resolve_world(config, facts, size), memory=memory)


def expected_device(config: RunConfig) -> Literal["cpu", "cuda"]:
    """What ranks will compute on, before any cluster was asked: this machine speaks for a local Ray."""
    if config.cluster.device != "auto":
        return config.cluster.device
    return "cpu" if config.cluster.address == "local" and _gpu_memory() is None else "cuda"


def memory_of_a_rank(config: RunConfig, device: str) -> int | None:
    """Bytes one rank may use: cluster.device_memory_gb, or read from this machine; None when nobody knows."""
    if config.cluster.device_memory_gb is not None:
        return int(config.cluster.device_memory_gb * 2**30)
    if device == "cpu":
        return usable_memory(read_limits()) // config.cluster.ranks_per_node
    return _gpu_memory()


def _gpu_memory() -> int | None:
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).total)
    except pynvml.NVMLError:
        return None  # no GPU in this machine: the cluster's may be larger or smaller


def check_it_fits(config: RunConfig, row: WorldRow, limit: int | None) -> None:
    """Raise DoesNotFit with the smallest change that would."""
    need = row.memory[config.zero_stage].device_bytes
    if limit is None or need <= limit:
        return
    better = [stage for stage in STAGES if stage > config.zero_stage and row.memory[stage].device_bytes <= limit]
    remedy = (
        f"deepspeed.zero_optimization.stage={better[0]} needs {gib(row.memory[better[0]].device_bytes)}"
        if better
        else "more ranks at stage 3, or deepspeed.zero_optimization.offload_optimizer={device: cpu}"
    )
    raise DoesNotFit(
        f"model state alone needs {gib(need)} a rank at ZeRO stage {config.zero_stage} on {row.plan.world_size} "
        f"rank(s), and there are {gib(limit)}",
        where="plan",
        remedy=remedy,
    )


def check_world_sizes(config: RunConfig, facts: Facts) -> None:
    """The smallest and the largest world must both be able to cut the batch, and leave CPUs to who prepares ahead."""
    ranks = config.cluster.ranks_per_node
    for nodes in {config.cluster.nodes.min, config.cluster.nodes.max}:
        plan = resolve_world(config, facts, nodes * ranks)
        if plan.prepare_cpus and ranks * plan.cpus_per_rank + plan.prepare_cpus > facts.cpus_per_node:
            raise ConfigError(
                f"{ranks} ranks with {plan.cpus_per_rank} CPUs each and {plan.prepare_cpus} to prepare with do not fit "
                f"into {facts.cpus_per_node} CPUs a node",
                where="prepare.mode=ahead",
                remedy="lower prepare.cpus, cluster.cpus_per_rank or ranks_per_node, or take prepare.mode first",
            )


def as_json(rows: Sequence[WorldRow]) -> list[dict[str, object]]:
    return [
        {
            "nodes": row.nodes,
            "batch": {key: value for key, value in asdict(row.plan).items() if key != "decisions"},
            "state_bytes_per_rank": {
                f"stage {stage}": {"device": plan.device, "host": plan.host} for stage, plan in row.memory.items()
            },
        }
        for row in rows
    ]


def gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.2f} GiB"


def planned_vocab(config: RunConfig) -> int | None:
    """The vocabulary before anything is prepared: what will be trained, or what the given tokenizer has.

    None for a task that is not fed with tokens."""
    tokens = config.prepare.tokens
    if tokens is None:
        return None
    if tokens.train_bpe is not None:
        return tokens.train_bpe
    stated = (config.model.transformers or {}).get("vocab_size")
    if isinstance(stated, int):
        return stated
    from orchestrator.prepare.tokenizer import read_vocab_size

    return read_vocab_size(str(tokens.tokenizer))
