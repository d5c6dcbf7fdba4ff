"""Training that goes on from snapshots: ranks, then a node, are killed, and others go on from what the vaults hold."""

import os
import signal
from contextlib import closing
from pathlib import Path

import pytest
from torch.distributed import Store

from orchestrator.control.jobs import SnapshotStart, VaultAddress, VaultDoor
from orchestrator.control.snapshot_reader import open_snapshot
from orchestrator.control.snapshots import Inventory
from orchestrator.control.vaulted import RankVault
from tests.fakes.gang import GangFailed, run_gang
from tests.fakes.small_runs import ScriptedHelm, small_config, train_small
from tests.fakes.vault_nodes import Cluster, cluster_of

pytestmark = pytest.mark.cluster

CONFIG = small_config(stage=2, checkpoint={"snapshot_every": 1, "every_steps": None}, train={"steps": 8})
DIES_AT = 5


class Dying(ScriptedHelm):
    """The rank is killed in the middle of a step."""

    def show(self, step: int, phase: str) -> None:
        super().show(step, phase)
        if (step, phase) == (DIES_AT, "step"):
            os.kill(os.getpid(), signal.SIGKILL)


def train_on_node(
    rank: int,
    size: int,
    store: Store,
    folder: Path,
    generation: int,
    doors: list[VaultDoor],
    buddies: list[VaultAddress | None],
    start: SnapshotStart | None,
    dies: bool,
) -> dict[int, float]:
    """The losses of the steps that it has done."""
    committed = (start.generation, start.step) if start else None
    vault = RankVault(doors[rank], generation=generation, buddy=buddies[rank], committed=committed)
    with closing(vault):
        _, sink = train_small(
            rank, size, store, CONFIG, folder / "checkpoints", generation=generation, vault=vault,
            start=open_snapshot(start, doors[rank].token) if start else None,
            helm=Dying() if dies and rank == size - 1 else None,
        )  # fmt: skip
    return {row["step"]: row["loss"] for row in sink.rows()}


def train(
    cluster: Cluster, generation: int, start: SnapshotStart | None = None, *, dies: bool = False
) -> dict[int, float]:
    doors = [node.doors[0] for node in cluster.nodes]
    addresses = [node.address for node in cluster.nodes]
    buddies = [*addresses[1:], addresses[0]] if len(addresses) > 1 else [None]
    work = (cluster.run, generation, doors, buddies, start, dies)
    losses: dict[int, float] = run_gang(len(doors), train_on_node, *work)[0]
    return losses


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    with cluster_of(tmp_path_factory.mktemp("unbroken"), nodes=2) as cluster:
        return train(cluster, 1)


@pytest.mark.parametrize("node_dies", [False, True])
def test_training_goes_on_from_memory_as_if_nothing_had_been(
    tmp_path: Path, unbroken: dict[int, float], node_dies: bool
) -> None:
    with cluster_of(tmp_path, nodes=2) as cluster:
        with pytest.raises(GangFailed, match="died"):
            train(cluster, 1, dies=True)
        if node_dies:
            cluster.kill(1)
        start = Inventory.take([node.address for node in cluster.nodes]).choose()
        assert start is not None
        assert DIES_AT - 1 <= start.step <= DIES_AT
        losses = train(cluster, 2, start)
        assert losses.keys() == set(range(start.step, 8))
        expected = {step: unbroken[step] for step in losses}
        assert losses == (pytest.approx(expected, rel=1e-4) if node_dies else expected)
        after = Inventory.take([node.address for node in cluster.nodes]).choose()
        assert after is not None
        assert (after.generation, after.step) == (2, 8)
