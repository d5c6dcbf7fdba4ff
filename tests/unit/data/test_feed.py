import numpy as np
import pytest

from orchestrator.core.words import World
from orchestrator.data.feeding.feed import open_batches
from orchestrator.data.feeding.stream import Stream
from orchestrator.data.ordering.order import Order, ValidationOrder
from orchestrator.data.ordering.skips import Skips
from orchestrator.prepare.run import prepare
from tests.fakes.arrays import array_config, write_arrays
from tests.fakes.shards import make_config, write_dataset

ALONE = World.flat(0, 1)


def first_batch(config, split="train", order=Order, threads=1):
    manifest = prepare(config)
    batches = open_batches(config, manifest, order.of(config, manifest, split), split, threads)
    try:
        return batches.make(0, ALONE, Skips())
    finally:
        batches.close()


def packed_config(root, **task):
    write_dataset(root / "data", 4)
    config = make_config(root, {"split": {"validation": 0.3}})
    return config.model_copy(update={"task": config.task.model_copy(update={"seq_len": 8, **task})})


@pytest.mark.parametrize(("split", "order"), [("train", Order), ("validation", ValidationOrder)])
def test_a_language_model_is_fed_packed_tokens_of_its_split(tmp_path, split, order):
    batch = first_batch(packed_config(tmp_path), split, order)
    assert set(batch.fields) == {"tokens", "weights"}
    assert batch.fields["tokens"].shape == (1, 9)


def test_documents_are_told_apart_when_the_task_asks_for_it(tmp_path):
    batch = first_batch(packed_config(tmp_path, documents_apart=True))
    assert set(batch.fields) == {"tokens", "weights", "documents", "positions"}


def test_other_tasks_are_fed_the_fields_of_the_config(tmp_path):
    write_arrays(tmp_path / "data", 2)
    batch = first_batch(array_config(tmp_path))
    assert set(batch.fields) == {"values", "label", "weights", "draw_keys"}
    assert batch.figures.read_bytes > 0
    assert batch.figures.decode_s > 0


@pytest.mark.parametrize("workers", [{"threads": 3}, {"processes": 1}])
def test_a_stream_of_samples_goes_on_from_any_step(tmp_path, workers):
    write_arrays(tmp_path / "data", 4)
    config = array_config(tmp_path, {"workers": workers})
    manifest = prepare(config)

    def open_stream(first_step):
        batches = open_batches(config, manifest, Order.of(config, manifest), "train")
        return Stream(batches, ALONE, first_step=first_step, stop_step=8, skips=Skips(), prefetch_bytes=10_000)

    with open_stream(0) as whole, open_stream(5) as resumed:
        expected, found = list(whole)[5:], list(resumed)
    assert [batch.step for batch in found] == [5, 6, 7]
    for one, other in zip(expected, found, strict=True):
        assert one.sums == other.sums
        assert np.array_equal(one.fields["values"], other.fields["values"])
