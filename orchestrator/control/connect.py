"""Reaching a Ray cluster, and what it looks like. Every way this can fail is one clear ClusterError."""

import os
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.job_config import JobConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.core.errors import BadInput, ClusterError

NAMESPACE = "longhaul"
RUN_METADATA = "longhaul_run"  # of Ray jobs: the run directory, by which runs of a cluster are found
_REACH_TIMEOUT_S = 5.0
_PROBE_TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeFacts:
    node_id: str
    host: str
    cpus: int
    gpus: int
    memory_bytes: int = 0


@contextmanager
def connected(address: str, run: Path | None = None, env: Mapping[str, str] | None = None) -> Iterator[None]:
    """Be a driver of the cluster at `address` (host:port of its head, or auto), for `run`; its processes get `env`."""
    _check_reachable(address)
    os.environ.setdefault("RAY_DISABLE_USAGE_STATS", "1")
    try:
        ray.init(
            address=address,
            namespace=NAMESPACE,
            log_to_driver=False,
            configure_logging=False,
            runtime_env={"env_vars": dict(env)} if env else None,
            job_config=JobConfig(metadata={RUN_METADATA: str(run)} if run else {}),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        remedy = (
            "check cluster.address, and that this machine runs the cluster's Ray and Python versions and has its token"
        )
        raise ClusterError(str(error).strip(), where=f"cluster.address={address}", remedy=remedy) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself tries for minutes; an address that nobody listens on is known at once."""
    if address == "auto":
        return
    if "://" in address:
        remedy = f"give the head's host:port, or go through the dashboard: `longhaul submit CONFIG --address {address}`"
        raise ClusterError("is no address of a Ray head", where=f"cluster.address={address}", remedy=remedy)
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ClusterError("is not host:port", where=f"cluster.address={address}", remedy="for example 10.0.0.1:6379")
    try:
        socket.create_connection((host, int(port)), timeout=_REACH_TIMEOUT_S).close()
    except OSError as error:
        remedy = "is the Ray head up, and is its port open to this machine?"
        raise ClusterError(f"cannot be reached: {error}", where=f"cluster.address={address}", remedy=remedy) from error


def alive_nodes() -> list[NodeFacts]:
    return [
        NodeFacts(
            node_id=node["NodeID"],
            host=node["NodeManagerHostname"],
            cpus=int(node["Resources"].get("CPU", 0)),
            gpus=int(node["Resources"].get("GPU", 0)),
            memory_bytes=int(sum(node["Resources"].get(part, 0) for part in ("memory", "object_store_memory"))),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def own_node() -> tuple[str, str]:
    """Id and address of the node this actor is on, as its cluster knows them."""
    node_id = ray.get_runtime_context().get_node_id()
    return node_id, next(node["NodeManagerAddress"] for node in ray.nodes() if node["NodeID"] == node_id)


def probe_root(root: Path) -> None:
    """Every node must see `root` as this machine does: each reads a file from here and writes one that is read here."""
    root.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex
    probe = root / f".probe-{token}"
    probe.write_text(token)
    answers = []
    try:
        nodes = alive_nodes()
        task = ray.remote(_answer_probe)
        for node in nodes:
            strategy = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
            answers.append(task.options(num_cpus=0, scheduling_strategy=strategy).remote(str(probe), node.node_id))
        for node, answer in zip(nodes, answers, strict=True):
            seen = _hear_probe(node, answer)
            back = probe.with_name(f"{probe.name}-{node.node_id}")
            if seen is not None and (seen != token or not back.exists()):
                raise BadInput(
                    f"node {node.host} does not see this folder as this machine does ({seen})",
                    where=f"root={root}",
                    remedy="put root on a file system that all nodes mount at the same path",
                )
    finally:
        for leftover in root.glob(f"{probe.name}*"):
            leftover.unlink()


def _hear_probe(node: NodeFacts, answer: Any) -> str | None:
    """None of a node that has gone meanwhile: the cluster goes on without it."""
    try:
        return str(ray.get(answer, timeout=_PROBE_TIMEOUT_S))
    except RayError as error:
        if all(other.node_id != node.node_id for other in alive_nodes()):
            return None
        what = str(error).splitlines()[-1]  # what was raised there stands below the way to it
        remedy = "see to that node, or end the Ray on it; `longhaul doctor --address` looks closer"
        raise ClusterError(f"cannot be used: {what}", where=f"node {node.host}", remedy=remedy) from error


def _answer_probe(probe: str, node_id: str) -> str:
    path = Path(probe)
    try:
        text = path.read_text()
        path.with_name(f"{path.name}-{node_id}").write_text(text)
    except OSError as error:
        return f"{type(error).__name__}: {error.strerror}"
    return text
