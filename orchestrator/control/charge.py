"""What a controller is put in charge of, and what follows from its config. Before controller.py."""

import secrets
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from orchestrator.config.resolve import Facts, resolve_world
from orchestrator.config.run import RunConfig
from orchestrator.control.jobs import RunHandle
from orchestrator.control.seen import Limits
from orchestrator.core.keyed import text_key
from orchestrator.tracking.rundir import RunDir


@dataclass(frozen=True, kw_only=True, slots=True)
class Charge:
    """What a controller is put in charge of: the generations after `after_generation`. `about` goes to W&B, `name` into
    the journal: whoever Ray starts again in its place is in charge under it, too."""

    run: RunHandle
    address: str
    facts: Facts
    about: dict[str, Any]
    after_generation: int
    name: str = field(default_factory=partial(secrets.token_hex, 8))


def limits_of(run: RunHandle, config: RunConfig) -> Limits:
    """What the policy goes by."""
    cluster, elastic = config.cluster, config.elastic
    return Limits(
        min_nodes=cluster.nodes.min,
        max_nodes=cluster.nodes.max,
        spare_nodes=cluster.spare_nodes,
        ranks_per_node=cluster.ranks_per_node,
        start_timeout_s=cluster.start_timeout_s,
        heartbeat_timeout_s=elastic.heartbeat_timeout_s,
        abort_timeout_s=elastic.abort_timeout_s,
        restart_budget=elastic.restart_budget,
        forget_after_s=elastic.forget_after_s,
        bad_node_after=elastic.bad_node_after,
        bad_node_for_s=elastic.bad_node_for_s,
        drill=RunDir(run.path).drill(),
        jitter=text_key(run.key) % 1000 / 1000,
    )


def bundle_of(config: RunConfig, facts: Facts) -> dict[str, float]:
    """What one node must offer."""
    cluster = config.cluster
    threads = resolve_world(config, facts, cluster.ranks_per_node).cpus_per_rank
    bundle = {"CPU": float(cluster.ranks_per_node * threads)}
    return bundle | ({"GPU": float(cluster.ranks_per_node)} if cluster.device == "cuda" else {})
