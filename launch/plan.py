"""`longhaul plan`: what a config needs on each world, as tables or JSON. Starts nothing and needs no GPU."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from launch.checks.limits import count_processors, read_limits, usable_memory
from launch.environment import has_wandb_key
from launch.loading import load_checked
from launch.planning import (
    STAGES,
    LanePlan,
    WorldRow,
    as_json,
    check_it_fits,
    describe_cached,
    expected_device,
    know_memory,
    list_segments,
    memory_of_a_rank,
    plan_lanes,
    plan_worlds,
    planned_vocab,
    tell_new_tensors,
)
from launch.screen import Screen
from orchestrator.config.resolve import Facts
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import BadInput
from orchestrator.train.models.description import ModelDescription
from orchestrator.train.optim.groups import check_patterns


def show_plan(
    path: Path, overlays: Sequence[Path], sets: Sequence[str], nodes: str | None, machine: bool, screen: Screen
) -> None:
    """Raises DoesNotFit, after showing the plan, when the first world does not hold the state."""
    config = load_checked(path, overlays, sets)
    counts = _parse_nodes(nodes) if nodes else sorted({config.cluster.nodes.min, config.cluster.nodes.max})
    device = expected_device(config)
    facts = Facts(
        device=device,
        cpus_per_node=count_processors(read_limits()),
        remote=any("://" in source.path for source in config.data.train),
        sample_bytes=0,  # known once the data is indexed
        wandb_key=has_wandb_key(),
        node_bytes=usable_memory(read_limits()) if config.cluster.address == "local" else None,
    )
    description = describe_cached(config, planned_vocab(config))
    check_patterns(config.optim, description)
    facts = know_memory(config, facts, planned_vocab(config), description)
    rows = plan_worlds(config, facts, description, counts)
    segments = list_segments(config) if config.data.lanes == "auto" else []
    lanes = None if segments is None else plan_lanes(config, segments)
    if machine:
        plan = {"format": 1, "parameters": description.num_parameters, "worlds": as_json(rows)}
        plan |= {"inexact": description.inexact, "begins_anew": description.begins_anew}
        print(json.dumps({**plan, "lanes": asdict(lanes) if lanes else None}))
    else:
        _show_tables(config, description, rows, screen)
        screen.say(f"data.lanes: {_describe_lanes(lanes)}")
    for row in rows:
        check_it_fits(config, row, memory_of_a_rank(config, device))


def _parse_nodes(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise BadInput("must be numbers of nodes", where=f"--nodes {text}", remedy="for example --nodes 4,8,16")
    return [int(part) for part in parts]


def _describe_length(config: RunConfig, description: ModelDescription) -> str:
    """Steps and what is in them; a length in epochs becomes steps only when the data is prepared."""
    train, seq_len = config.train, config.packed_len
    length = f"{train.epochs:g} epochs in steps" if train.epochs else f"{train.tokens or 0:,} tokens in steps"
    if train.steps is not None:
        length = f"{train.steps:,} steps"
    if seq_len is None:
        return f"{length} of {train.global_batch} samples"
    tokens, flops = train.global_batch * seq_len, description.flops_per_token(seq_len)
    total = train.tokens or (train.steps and train.steps * tokens)
    in_all = f"; {total:,} tokens in all, {total * flops:.3g} FLOPs" if total else ""
    return f"{length} of {train.global_batch} x {seq_len} = {tokens:,} tokens, {flops:,} FLOPs a token{in_all}"


def _describe_lanes(lanes: LanePlan | None) -> str:
    if lanes is None:
        return "as many as the shards of each unit allow; the data is not here to count them"
    return f"{lanes.first_unit} in the first unit, {lanes.epoch} over a whole epoch"


def _show_tables(config: RunConfig, description: ModelDescription, rows: Sequence[WorldRow], screen: Screen) -> None:
    parameters = f"{description.num_parameters:,} parameters, {description.num_trainable:,} trainable"
    screen.say(f"{description.model_type}: {parameters}")
    tell_new_tensors(description, screen)
    for layers in description.inexact:
        screen.say(layers)
    screen.say(_describe_length(config, description))
    table = Table(title="GiB of state a rank, without activations", title_justify="left", box=None, pad_edge=False)
    for heading in ("nodes", "ranks", "micro batch", "accumulation", *(f"ZeRO {stage}" for stage in STAGES)):
        table.add_column(heading, justify="right")
    for row in rows:
        memory = [f"{row.memory[stage].device_bytes / 2**30:.2f}" for stage in STAGES]
        memory[config.zero_stage] = f"[bold]{memory[config.zero_stage]}[/bold]"
        numbers = (row.nodes, row.plan.world_size, row.plan.micro_batch, row.plan.accumulation)
        table.add_row(*map(str, numbers), *memory)
    screen.console.print(table)
    for decision in rows[0].plan.decisions:
        if decision.key in ("cluster.cpus_per_rank", "prepare.cpus") and config.cluster.address != "local":
            continue  # this machine's CPUs say nothing of the cluster's
        screen.say(f"{decision.key}: {decision.value} ({decision.why})")
