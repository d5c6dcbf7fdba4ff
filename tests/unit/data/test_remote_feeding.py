"""Samples out of a failing store: the same ledger as from a folder, each byte fetched once, no request for a shard that
its listing has answered."""

import pytest

from orchestrator.config.check import replace_values
from orchestrator.core.words import World
from orchestrator.data.feeding.feed import open_batches
from orchestrator.data.ordering.ledger import Sums
from orchestrator.data.ordering.order import Order
from orchestrator.data.ordering.skips import Skips
from orchestrator.prepare.run import prepare
from orchestrator.storage.stores import StoreSettings, open_stores
from tests.fakes.pictures import picture_config, write_pictures
from tests.fakes.s3_server import S3Server

STEPS = 8


@pytest.fixture
def server(tmp_path):
    write_pictures(tmp_path / "local" / "data", 5)
    with S3Server() as server:
        for path in (tmp_path / "local" / "data").glob("*.tar"):
            server.objects[f"data/{path.name}"] = path.read_bytes()
        yield server


def local_config(root):
    return picture_config(root, {"lanes": 2, "run_samples": 1}, train={"steps": STEPS, "global_batch": 7})


def remote_config(root, server, cache="cache"):
    config = replace_values(local_config(root), {"data.work": str(root / "work")})
    source = [{"path": "s3://bucket/data"}]
    store = {"options": server.options, "timeout_s": 20.0, "retry_for_s": 60.0}
    return replace_values(
        config, {"data.train": source, "data.store": store, "data.cache": {"folder": str(root / cache)}}
    )


def ledger_of(config, size):
    """The sums of every step over the ranks of a world."""
    manifest = prepare(config)
    order = Order.of(config, manifest)
    makers = [open_batches(config, manifest, order, "train") for _ in range(size)]
    sums = []
    for step in range(STEPS):
        batches = [maker.make(step, World.flat(rank, size), Skips()) for rank, maker in enumerate(makers)]
        sums.append(sum((batch.sums for batch in batches), Sums()))
    for maker in makers:
        maker.close()
    return sums


@pytest.mark.parametrize("size", [1, 3])
def test_a_store_that_fails_in_every_way_gives_the_ledger_of_a_folder(tmp_path, server, size):
    expected = ledger_of(local_config(tmp_path / "local"), 1)
    server.plan("500", "cut", kind="LIST")
    server.plan("500", "503", "reset", "cut", "slow", "500")
    assert ledger_of(remote_config(tmp_path, server), size) == expected


def test_preparing_and_feeding_fetch_every_shard_once_and_ask_for_none(tmp_path, server):
    ledger_of(remote_config(tmp_path, server), 2)
    assert server.count("LIST") == 1
    assert server.count("HEAD") == 0
    assert server.count("GET") == len(server.objects)


def test_another_node_fetches_what_was_prepared_or_nothing(tmp_path, server):
    """Bytes that differ from those that were prepared are refused, also when the store vouches for them."""
    config = remote_config(tmp_path, server)
    manifest = prepare(config)
    other = remote_config(tmp_path, server, cache="another")
    assert open_stores(StoreSettings.of(other.data)) is not open_stores(StoreSettings.of(config.data))
    maker = open_batches(other, manifest, Order.of(other, manifest), "train")
    server.plan("wrong")
    assert maker.make(0, World.flat(0, 1), Skips()).count == 7  # wrong bytes were asked for again
    maker.close()
