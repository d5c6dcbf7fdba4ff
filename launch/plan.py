"""`longhaul plan`: what a config needs on each world, as tables or JSON. Starts nothing and needs no GPU."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from launch.environment import has_wandb_key
from launch.paths import with_absolute_paths
from launch.planning import (
    STAGES,
    WorldRow,
    as_json,
    check_it_fits,
    describe_cached,
    expected_device,
    memory_of_a_rank,
    plan_worlds,
    planned_vocab,
)
from launch.screen import Screen
from orchestrator.config.load import load_config
from orchestrator.config.resolve import Facts
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import BadInput
from orchestrator.train.description import ModelDescription


def show_plan(
    path: Path, overlays: Sequence[Path], sets: Sequence[str], nodes: str | None, machine: bool, screen: Screen
) -> None:
    """Raises DoesNotFit, after showing the plan, when the first world does not hold the state."""
    config = with_absolute_paths(load_config(path, overlays, sets).config)
    counts = _parse_nodes(nodes) if nodes else sorted({config.cluster.nodes.min, config.cluster.nodes.max})
    device = expected_device(config)
    facts = Facts(
        device=device,
        cpus_per_node=os.cpu_count() or 1,
        unit_shards=config.data.segment_shards,
        wandb_key=has_wandb_key(),
    )
    description = describe_cached(config, planned_vocab(config))
    rows = plan_worlds(config, facts, description, counts)
    if machine:
        print(json.dumps({"format": 1, "parameters": description.num_parameters, "worlds": as_json(rows)}))
    else:
        _show_tables(config, description, rows, screen)
    for row in rows:
        check_it_fits(config, row, memory_of_a_rank(config, device))


def _parse_nodes(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise BadInput("must be numbers of nodes", where=f"--nodes {text}", remedy="for example --nodes 4,8,16")
    return [int(part) for part in parts]


def _show_tables(config: RunConfig, description: ModelDescription, rows: Sequence[WorldRow], screen: Screen) -> None:
    task, train = config.task, config.train
    tokens = train.global_batch * task.seq_len
    flops = description.flops_per_token(task.seq_len)
    screen.say(
        f"{description.model_type}: {description.num_parameters:,} parameters, "
        f"{description.num_trainable:,} trainable, {flops:,} FLOPs a token\n"
        f"{train.steps:,} steps of {train.global_batch} x {task.seq_len} = {tokens:,} tokens; "
        f"{train.steps * tokens:,} tokens in all, {train.steps * tokens * flops:.3g} FLOPs"
    )
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
        if decision.key == "cluster.cpus_per_rank" and config.cluster.address != "local":
            continue  # this machine's CPUs say nothing of the cluster's
        screen.say(f"{decision.key}: {decision.value} ({decision.why})")
