"""Training keeps checkpoints wherever its config says, and goes on when there is no room for one."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from orchestrator.checkpoint.found import list_checkpoints, verify
from orchestrator.checkpoint.shelf import open_shelf
from orchestrator.config.run import RunConfig
from orchestrator.core.news import CheckpointNews
from orchestrator.train.engine import warm
from tests.fakes import small_runs
from tests.fakes.gang import run_gang
from tests.fakes.s3_server import S3Server
from tests.fakes.small_runs import RecordingSink, small_config, train_small

EVERY_TWO = {"every_steps": 2, "keep": {"last": 10}}


class FillsTheDisk(RecordingSink):
    """From the first checkpoint on there is no room, until one could not be written."""

    def tell(self, news: Any) -> None:
        super().tell(news)
        if isinstance(news, CheckpointNews):
            ballast = self._skips_file.parent / "disk" / "ballast"
            if news.problem:
                ballast.unlink()
            elif news.step == 2:
                with suppress(OSError):  # the other rank may be writing already
                    ballast.write_bytes(bytes(shutil.disk_usage(ballast.parent).free))


def train_where_it_fills(rank: int, store: Any, folder: Path) -> Any:
    with mock.patch.object(small_runs, "RecordingSink", FillsTheDisk):
        outcome, sink = train_small(rank, 2, store, small_config(checkpoint=EVERY_TWO), folder / "disk")
    return outcome, sink.rows(), sink.of(CheckpointNews)


def train_into_a_store(rank: int, store: Any, folder: Path, config: RunConfig) -> Any:
    """Two ranks into the store, then one that goes on from its checkpoint of step 4."""
    outcome, sink = train_small(rank, 2, store, config, folder / "in_store")
    if rank == 0:
        start = open_shelf(config, folder).address("step-00000004-g0001")
        _, again = train_small(0, 1, store, config, folder / "again", generation=2, start=start)  # type: ignore[arg-type]
        return outcome, sink.rows(), again.rows()
    return outcome, sink.rows(), []


def run_both(rank: int, size: int, store: Any, folder: Path, config: RunConfig) -> Any:
    warm("cpu", threads=1)
    return train_where_it_fills(rank, store, folder), train_into_a_store(rank, store, folder, config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """With a disk of 8 MiB in it."""
    folder = tmp_path_factory.mktemp("shelves")
    (folder / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder / "disk")]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder / "disk")], check=True)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture(scope="module")
def config(server: S3Server) -> RunConfig:
    data = {"store": {"options": server.options}}
    return small_config(checkpoint=EVERY_TWO | {"store": "s3://bucket/kept"}, data=data)


@pytest.fixture(scope="module")
def ranks(folder: Path, config: RunConfig) -> Any:
    return run_gang(2, run_both, folder, config)


def test_a_full_disk_costs_one_checkpoint_and_no_step(ranks: Any, folder: Path) -> None:
    outcome, rows, told = ranks[0][0]
    assert [row["step"] for row in rows] == list(range(6))
    assert outcome.step == 6
    assert [(news.step, bool(news.problem)) for news in told] == [(2, False), (4, True), (6, False)]
    assert [one.step for one in list_checkpoints(folder / "disk")] == [2, 6]
    assert all(verify(one.path) == [] for one in list_checkpoints(folder / "disk"))
    assert sorted(path.name for path in (folder / "disk").iterdir()) == ["step-00000002-g0001", "step-00000006-g0001"]


def test_checkpoints_in_a_store_are_gone_on_from(ranks: Any, config: RunConfig, server: S3Server, folder: Path) -> None:
    outcome, rows, again = ranks[0][1]
    assert outcome.checkpoint == "s3://bucket/kept/small/step-00000006-g0001"
    for key in ("loss", "grad_norm", "order_digest"):  # where they lie changes no number
        assert [row[key] for row in rows] == [row[key] for row in ranks[0][0][1]]
    assert [row["step"] for row in again] == [4, 5]
    assert [row["order_digest"] for row in again] == [row["order_digest"] for row in rows[4:]]
    assert [row["loss"] for row in again] == pytest.approx([row["loss"] for row in rows[4:]], abs=1e-4)
    assert not (folder / "in_store").exists()
    found = list_checkpoints(open_shelf(config, folder))
    assert [(one.step, one.generation, one.problem) for one in found] == [
        (2, 1, ""),
        (4, 1, ""),
        (6, 1, ""),
        (6, 2, ""),
    ]
