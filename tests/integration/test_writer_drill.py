"""The writer alone is killed at random moments, on disk and in a store: the newest committed always loads."""

import json
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import torch

from orchestrator.checkpoint.found import list_checkpoints, newest_sound
from orchestrator.checkpoint.keep import prune
from orchestrator.checkpoint.reader import open_checkpoint
from orchestrator.checkpoint.remote_shelf import RemoteShelf
from orchestrator.checkpoint.shelf import LocalShelf, Shelf
from orchestrator.config.running import KeepSection
from orchestrator.storage.stores import StoreSettings
from tests.fakes.dying import do_until_killed
from tests.fakes.s3_server import S3Server
from tests.fakes.saving import make_model, save_all, split

pytestmark = [pytest.mark.cluster, pytest.mark.long]


class Bench:
    """A shelf, how often its writer is killed, and how a test waits until a writer has begun."""

    def __init__(self, shelf: Shelf, kills: int, has_begun: Callable[[], object]) -> None:
        self.shelf, self.kills, self.has_begun = shelf, kills, has_begun


@pytest.fixture
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def settings(server: S3Server) -> StoreSettings:
    return StoreSettings(options=json.dumps(server.options), timeout_s=10, retry_for_s=10)


@pytest.fixture(params=["disk", "store"])
def bench(request: pytest.FixtureRequest, tmp_path: Path, server: S3Server, settings: StoreSettings) -> Bench:
    def has_asked() -> None:
        asked = len(server.asked)
        while len(server.asked) == asked:
            time.sleep(0.001)

    if request.param == "disk":
        return Bench(LocalShelf(tmp_path), 200, lambda: None)
    return Bench(RemoteShelf(server.url("kept/run"), settings), 50, has_asked)


def test_whenever_the_writer_is_killed_the_newest_committed_loads(bench: Bench, settings: StoreSettings) -> None:
    torch.set_num_threads(1)  # a fork has no threads to share work with
    shelf, chance = bench.shelf, random.Random(5)
    model = make_model([((64, 513), "trainable", "bfloat16"), ((7,), "buffer", "int64")])
    ranks = split(model, 2, chance)
    step, unfinished = 1, 0

    def save_forever(step: int) -> None:
        for later in count(step):
            save_all(shelf, ranks, step=later)
            prune(shelf, KeepSection(last=2), "loss")

    for _ in range(bench.kills):
        do_until_killed(partial(save_forever, step), after_s=0.3 * chance.random(), wait=bench.has_begun)
        committed = list_checkpoints(shelf)
        assert [one.problem for one in committed] == [""] * len(committed)
        unfinished += len(shelf.list()) > len(committed)
        if not committed:
            continue
        assert newest_sound(shelf)[0] is not None
        reader = open_checkpoint(committed[-1].path, settings)
        for (name, state), values in model.values.items():
            assert reader.read(name, state, 0, values.numel()).equal(values)
        reader.close()
        assert committed[-1].step >= step - 1
        step = committed[-1].step + 1
    assert step > bench.kills // 20
    assert unfinished > bench.kills // 20  # many were killed amid a checkpoint
    save_all(shelf, ranks, step=step + 1)
    assert len(shelf.list()) == len(list_checkpoints(shelf))
