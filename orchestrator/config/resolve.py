"""Every `auto` -> a value, with the reason. Pure: what the decisions depend on is handed in as Facts.

Comes after load.py. `resolve_run` decides once what holds for the whole run; `resolve_world` cuts batches for one world
size; `undecide` takes back what another world must decide anew, `keep_decided` gives a config that is written once more
what its run has decided. The decisions are kept in the run's plan.json."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.config.check import replace_values
from orchestrator.config.compare import changed_keys, mark_at
from orchestrator.config.marks import Mark
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import ConfigError

MOST_LANES = 128
SHARDS_PER_LANE = 8
# Enough to keep the arithmetic units busy; activations of small and middling models still fit.
TOKENS_AT_ONCE = {"cpu": 8_192, "cuda": 16_384}


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What is seen of machines, data and environment before a run starts."""

    device: Literal["cpu", "cuda"]
    cpus_per_node: int
    unit_shards: int  # in the first unit of the source that has most there; a small source cut thinner costs little
    wandb_key: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """What `auto` became, and why."""

    key: str
    value: Any
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldPlan:
    """How the work is cut for one world size."""

    world_size: int
    micro_batch: int
    accumulation: int
    cpus_per_rank: int
    decisions: tuple[Decision, ...]


def resolve_run(config: RunConfig, facts: Facts) -> tuple[RunConfig, list[Decision]]:
    """Decide what holds for the whole run, whatever its world: lanes, device, W&B mode."""
    decisions = []
    if config.data.lanes == "auto":
        decisions.append(_decide_lanes(facts.unit_shards, shuffle=config.data.shuffle))
    if config.cluster.device == "auto":
        decisions.append(Decision("cluster.device", facts.device, f"the nodes offer {facts.device}"))
    if config.tracking.wandb.mode == "auto":
        mode, why = ("online", "an API key is there") if facts.wandb_key else ("offline", "no API key is there")
        decisions.append(Decision("tracking.wandb.mode", mode, why))
    return replace_values(config, {decision.key: decision.value for decision in decisions}), decisions


def resolve_world(config: RunConfig, facts: Facts, world_size: int) -> WorldPlan:
    """Decide micro batch and CPUs for `world_size` ranks. Slices of the global batch differ by at most one sample."""
    batches = [config.train.global_batch, *(phase.global_batch or 0 for phase in config.data.phases)]
    batch, smallest = max(batches), min(filter(None, batches))
    micro_batch, cpus_per_rank = config.train.micro_batch, config.cluster.cpus_per_rank
    if world_size > smallest:
        raise ConfigError(
            f"train.global_batch {smallest} is too small for {world_size} ranks: some would have no sample",
            remedy=f"train.global_batch={world_size} or more, or lower cluster.ranks_per_node or cluster.nodes.max",
        )
    largest_slice = -(-batch // world_size)
    decisions = []
    if micro_batch == "auto":
        decisions.append(_decide_micro_batch(config, facts, largest_slice))
        micro_batch = int(decisions[-1].value)
    if cpus_per_rank == "auto":
        decisions.append(_decide_cpus(facts.cpus_per_node, config.cluster.ranks_per_node))
        cpus_per_rank = int(decisions[-1].value)
    return WorldPlan(
        world_size=world_size,
        micro_batch=micro_batch,
        accumulation=-(-largest_slice // micro_batch),
        cpus_per_rank=cpus_per_rank,
        decisions=tuple(decisions),
    )


def undecide(config: RunConfig, decisions: Iterable[Decision]) -> RunConfig:
    """Put back `auto` where the decision may be another on another world; identity and free decisions stay."""
    again = [decision.key for decision in decisions if mark_at(decision.key) is Mark.ROUNDING]
    return replace_values(config, dict.fromkeys(again, "auto"))


def keep_decided(config: RunConfig, began_with: RunConfig) -> RunConfig:
    """What a run has decided once and for all stays, where `config` still says auto."""
    changes = changed_keys(began_with, config)
    kept = {change.key: change.old for change in changes if change.mark is Mark.IDENTITY and change.new == "auto"}
    return replace_values(config, kept)


def _decide_lanes(shards: int, *, shuffle: bool) -> Decision:
    if not shuffle:
        return Decision("data.lanes", 1, "data.shuffle=false asks for shard order")
    lanes = 1
    while lanes < MOST_LANES and lanes * 2 * SHARDS_PER_LANE <= shards:
        lanes *= 2
    why = f"a power of two, at most {MOST_LANES}, with {SHARDS_PER_LANE} shards a lane: the first unit has {shards}"
    return Decision("data.lanes", lanes, why)


def _decide_micro_batch(config: RunConfig, facts: Facts, largest_slice: int) -> Decision:
    device = facts.device if config.cluster.device == "auto" else config.cluster.device
    limit, seq_len = TOKENS_AT_ONCE[device], max([config.task.seq_len, *(p.seq_len or 0 for p in config.data.phases)])
    most = max(1, limit // seq_len)
    accumulation = -(-largest_slice // most)
    # Equal parts pad least: 12 samples at most 8 at once are 6 and 6.
    micro_batch = -(-largest_slice // accumulation)
    why = f"{largest_slice} samples a rank in {accumulation} equal parts of at most {limit} tokens on {device}"
    return Decision("train.micro_batch", micro_batch, why)


def _decide_cpus(cpus: int, ranks: int) -> Decision:
    return Decision("cluster.cpus_per_rank", max(1, cpus // ranks), f"{cpus} CPUs a node for {ranks} ranks")
