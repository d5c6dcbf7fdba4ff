"""The Ray that a command works on: one of its own on this machine, or the cluster at cluster.address."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launch.local import start_local_ray
from launch.planning import expected_device
from orchestrator.config.run import RunConfig


@contextmanager
def reached_cluster(config: RunConfig, run: Path, *, trains: bool) -> Iterator[str]:
    """Connected to Ray inside the block; yields its address. A local Ray ends afterwards; should this process die while
    its run lives, the keeper ends it with the run.

    Ray is imported while the local one is starting up."""
    if config.cluster.address != "local":
        from orchestrator.control.connect import connected, probe_root

        with connected(config.cluster.address, run if trains else None):
            probe_root(Path(config.root))
            yield config.cluster.address
        return
    cluster = config.cluster
    device = expected_device(config) if trains else None
    local = start_local_ray(run, cluster.ranks_per_node, device, cluster.env)
    try:
        from orchestrator.control.connect import connected

        local.wait_until_up()
        with connected(local.address):
            yield local.address
    finally:
        local.stop()
