"""The Ray that a command works on: one of its own on this machine, or the cluster at cluster.address."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from launch.local import LocalRay, start_local_ray
from launch.planning import expected_device
from orchestrator.config.run import RunConfig
from orchestrator.core.dotted import CODE_FOLDER


@dataclass(frozen=True, slots=True)
class ReachedCluster:
    config: RunConfig
    local: LocalRay | None

    @property
    def address(self) -> str:
        return self.local.address if self.local is not None else self.config.cluster.address

    @contextmanager
    def connected(self, run: Path | None = None) -> Iterator[None]:
        """Be a driver of it inside the block, for `run`. Following a run needs no connection.

        Ray is imported while the local one is starting up."""
        from orchestrator.control.connect import connected, probe_root

        if self.local is not None:
            self.local.wait_until_up()
        with connected(self.address, run, self._environment()):
            if self.local is None:
                probe_root(Path(self.config.root))
            yield

    def _environment(self) -> dict[str, str]:
        """What the processes of a cluster must be told; those of a local Ray inherit it."""
        return {CODE_FOLDER: self.config.code} if self.local is None and self.config.code else {}


@contextmanager
def reached_cluster(config: RunConfig, run: Path, *, trains: bool) -> Iterator[ReachedCluster]:
    """A local Ray ends with the block; should this process die while its run lives, the keeper ends it with the run."""
    if config.cluster.address != "local":
        yield ReachedCluster(config, None)
        return
    device = expected_device(config) if trains else None
    local = start_local_ray(run, least_cpus(config), device, config.cluster.env)
    try:
        yield ReachedCluster(config, local)
    finally:
        local.stop()


def least_cpus(config: RunConfig) -> int:
    """What a local Ray says it has at least: on a small machine ranks and preparing share CPUs."""
    ranks, per_rank, preparing = config.cluster.ranks_per_node, config.cluster.cpus_per_rank, config.prepare.cpus
    if config.prepare.mode == "first":
        return ranks
    return ranks * (1 if per_rank == "auto" else per_rank) + (1 if preparing == "auto" else preparing)
