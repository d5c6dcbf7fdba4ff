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
from orchestrator.core.words import MIRROR_SLOTS, OWN_SLOTS

# Enough to keep the arithmetic units busy: more would not be faster.
TOKENS_AT_ONCE = {"cpu": 8_192, "cuda": 16_384}
SAMPLES_AT_ONCE = {"cpu": 32, "cuda": 64}
ACTIVATIONS_SHARE = 0.7  # of what the state leaves; the rest is for kernels, libraries and what the allocator wastes
CHECKPOINT_SLOTS = 2  # that a rank fills in turn when it takes no snapshots between checkpoints
RUN_BYTES = 2 * 2**20  # of neighbours that are read from a store together: what a request costs is then small
RUNS_A_WINDOW = 64  # at least, however small the samples are: a window of few runs is hardly shuffled


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What is seen of machines, data and environment before a run starts."""

    device: Literal["cpu", "cuda"]
    cpus_per_node: int
    remote: bool  # whether any of the data lies in a store
    sample_bytes: int  # mean size of what is read of a sample that is fed as it is; 0 when packing
    wandb_key: bool
    activation_bytes: int | None = None  # of a sample in forward and backward; None where it could not be counted
    free_bytes: int | None = None  # that the model's state leaves a rank of the smallest world; None: not known
    node_bytes: int | None = None  # of a node's memory; None: not known
    snapshot_bytes: int = 0  # of all ranks' parts together; 0: not known
    node_free_bytes: int | None = (
        None  # of a node's memory, that its ranks leave in the smallest world; None: not known
    )


@dataclass(frozen=True, slots=True)
class Decision:
    """What a key became, why, and what was asked for."""

    key: str
    value: Any
    why: str
    was: Any = "auto"


Snapshots = Literal["mirrored", "own", "none"]  # kept on the node and on its buddy, on the node only, not taken


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldPlan:
    """How the work is cut for one world size."""

    world_size: int
    micro_batch: int
    accumulation: int
    cpus_per_rank: int
    prepare_cpus: int  # of each node, for preparing while ranks train
    snapshots: Snapshots
    vault_bytes: int  # of each node's memory; 0: not known
    decisions: tuple[Decision, ...]


def resolve_run(config: RunConfig, facts: Facts) -> tuple[RunConfig, list[Decision]]:
    """Decide what holds for the whole run, whatever its world: runs, device, W&B mode."""
    decisions = []
    if config.data.run_samples == "auto":
        decisions.append(_decide_runs(config, facts))
    if config.cluster.device == "auto":
        decisions.append(Decision("cluster.device", facts.device, f"the nodes offer {facts.device}"))
    if config.tracking.wandb.mode == "auto":
        mode, why = ("online", "an API key is there") if facts.wandb_key else ("offline", "no API key is there")
        decisions.append(Decision("tracking.wandb.mode", mode, why))
    return replace_values(config, {decision.key: decision.value for decision in decisions}), decisions


def resolve_world(config: RunConfig, facts: Facts, world_size: int) -> WorldPlan:
    """Decide micro batch and CPUs for `world_size` ranks. Slices of the global batch differ by at most one sample.

    Every rank has a sample in every step but the last, which takes what is left."""
    train = config.train
    phases = [phase for phase in config.data.phases if phase.global_batch is not None]
    batch = max([train.global_batch, *(phase.global_batch or 0 for phase in phases)])
    lasting = [phase.global_batch or 0 for phase in phases if train.steps is None or phase.from_step != train.steps - 1]
    smallest = min([train.global_batch, *lasting])
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
    prepare_cpus = config.prepare.cpus if config.prepare.mode == "ahead" else 0
    if prepare_cpus == "auto":
        decisions.append(_decide_prepare_cpus(config, facts.cpus_per_node))
        prepare_cpus = int(decisions[-1].value)
    if cpus_per_rank == "auto":
        decisions.append(_decide_cpus(facts.cpus_per_node - prepare_cpus, config.cluster.ranks_per_node))
        cpus_per_rank = int(decisions[-1].value)
    snapshots, vault_bytes = _fit_snapshots(config, facts, world_size)
    if vault_bytes:
        decisions.append(_tell_snapshots(config, facts, snapshots, vault_bytes))
    return WorldPlan(
        world_size=world_size,
        micro_batch=micro_batch,
        accumulation=-(-largest_slice // micro_batch),
        cpus_per_rank=cpus_per_rank,
        prepare_cpus=prepare_cpus,
        snapshots=snapshots,
        vault_bytes=vault_bytes,
        decisions=tuple(decisions),
    )


def undecide(config: RunConfig, decisions: Iterable[Decision]) -> RunConfig:
    """Put back what was asked for where it is decided anew: what may be another on another world, and the run's length,
    which is compared as it was stated. Other decisions stay."""
    again = [one for one in decisions if one.was != "auto" or mark_at(one.key) is Mark.ROUNDING]
    return replace_values(config, {decision.key: decision.was for decision in again})


def keep_decided(config: RunConfig, began_with: RunConfig) -> RunConfig:
    """What a run has decided once and for all stays, where `config` still says auto."""
    changes = changed_keys(began_with, config)
    kept = {change.key: change.old for change in changes if change.mark is Mark.IDENTITY and change.new == "auto"}
    return replace_values(config, kept)


def _decide_runs(config: RunConfig, facts: Facts) -> Decision:
    key = "data.run_samples"
    if config.packed_len is not None:
        return Decision(key, 1, "sequences are packed from documents in any order")
    if not facts.remote:
        return Decision(key, 1, "a local file is read anywhere at the same cost")
    most = max(1, config.data.window_samples // RUNS_A_WINDOW)
    samples = min(max(1, RUN_BYTES // max(1, facts.sample_bytes)), most)
    why = f"up to {RUN_BYTES >> 20} MiB are read from a store at once; a sample has {facts.sample_bytes} bytes"
    return Decision(key, samples, why)


def _decide_micro_batch(config: RunConfig, facts: Facts, largest_slice: int) -> Decision:
    device = facts.device if config.cluster.device == "auto" else config.cluster.device
    if config.packed_len is None:
        most, limit = SAMPLES_AT_ONCE[device], f"{SAMPLES_AT_ONCE[device]}"
    else:
        longest = max([config.packed_len, *(phase.seq_len or 0 for phase in config.data.phases)])
        most, limit = max(1, TOKENS_AT_ONCE[device] // longest), f"{TOKENS_AT_ONCE[device]} tokens"
    fitting, memory = _fit_activations(facts)
    if fitting is not None and fitting < most:
        most, limit = fitting, f"{fitting}"
    accumulation = -(-largest_slice // most)
    # Equal parts pad least: 12 samples at most 8 at once are 6 and 6.
    micro_batch = -(-largest_slice // accumulation)
    why = f"{largest_slice} samples a rank in {accumulation} equal parts of at most {limit} on {device}; {memory}"
    return Decision("train.micro_batch", micro_batch, why)


def _fit_activations(facts: Facts) -> tuple[int | None, str]:
    """How many samples a rank's memory holds at once, at least one, and the arithmetic in words."""
    if facts.activation_bytes is None:
        return None, "what a sample takes of memory could not be counted"
    if facts.free_bytes is None:
        return None, "how much memory a rank has is not known: cluster.device_memory_gb says it"
    fitting = max(1, int(ACTIVATIONS_SHARE * facts.free_bytes) // facts.activation_bytes)
    of_one, free = facts.activation_bytes / 2**20, facts.free_bytes / 2**30
    return fitting, f"a sample takes {of_one:.1f} MiB, and {ACTIVATIONS_SHARE:.0%} of {free:.2f} GiB hold {fitting}"


def _decide_cpus(cpus: int, ranks: int) -> Decision:
    return Decision("cluster.cpus_per_rank", max(1, cpus // ranks), f"{cpus} CPUs a node for {ranks} ranks")


def _decide_prepare_cpus(config: RunConfig, cpus: int) -> Decision:
    """Tasks that cannot be placed would never run, so preparing needs one CPU that is nobody else's."""
    stated = config.cluster.cpus_per_rank
    taken = config.cluster.ranks_per_node * (1 if stated == "auto" else stated)
    share = max(1, min(cpus // 4, cpus - taken))
    return Decision("prepare.cpus", share, f"a quarter of {cpus} CPUs a node, of which ranks leave {cpus - taken}")


def _fit_snapshots(config: RunConfig, facts: Facts, world_size: int) -> tuple[Snapshots, int]:
    """As many copies as there is room for beside the ranks, and what they take of a node."""
    per_node, free = config.cluster.ranks_per_node, facts.node_free_bytes
    of_node = per_node * -(-facts.snapshot_bytes // world_size)
    mirrors = MIRROR_SLOTS if world_size > per_node else 0
    choices: list[tuple[Snapshots, int]] = [("mirrored", OWN_SLOTS + mirrors), ("own", OWN_SLOTS)]
    for snapshots, copies in choices if config.checkpoint.snapshot_every is not None else []:
        if free is None or copies * of_node <= free:
            return snapshots, copies * of_node
    return "none", CHECKPOINT_SLOTS * of_node


def _tell_snapshots(config: RunConfig, facts: Facts, snapshots: Snapshots, vault_bytes: int) -> Decision:
    stated, free = config.checkpoint.snapshot_every, facts.node_free_bytes
    what = {"mirrored": "snapshots", "own": "snapshots without copies on other nodes", "none": "checkpoints alone"}
    limit = "" if free is None else f", of which its ranks leave {free / 2**30:.2f}"
    why = f"{what[snapshots]} take {vault_bytes / 2**30:.2f} GiB of a node's memory{limit}"
    return Decision("checkpoint.snapshot_every", None if snapshots == "none" else stated, why, was=stated)
