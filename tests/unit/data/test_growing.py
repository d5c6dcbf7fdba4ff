"""Feeding while data is prepared: nothing but the waiting may show."""

import threading
from dataclasses import dataclass, field

import numpy as np
import pytest

from orchestrator.config.run import RunConfig
from orchestrator.core.errors import NotPrepared
from orchestrator.core.words import World
from orchestrator.data.feeding.growing import GrowingOrder
from orchestrator.data.feeding.packed import PackedBatches
from orchestrator.data.feeding.read import TokenReader
from orchestrator.data.feeding.stream import Stream
from orchestrator.data.ordering.order import Order
from orchestrator.data.ordering.skips import Skips
from tests.fakes.corpus import FakeManifest, make_corpus

POLL_S = 0.01


@dataclass
class PreparedMeanwhile(FakeManifest):
    """Shows one segment, and another one each time that `more` is released."""

    whole: FakeManifest = field(default_factory=make_corpus)
    more: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    asked: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def of(cls, whole):
        begun = whole.prepared(1)
        return cls(
            begun.shards, begun.segments, begun.source_names, segments_to_come=begun.segments_to_come, whole=whole
        )

    def grow(self):
        self.asked.set()
        if not self.segments_to_come or not self.more.acquire(blocking=False):
            return False
        longer = self.whole.prepared(len(self.segments) + 1)
        self.shards, self.segments, self.segments_to_come = longer.shards, longer.segments, longer.segments_to_come
        return True


def make_config(manifest):
    data = {"train": [{"path": f"/x/{name}"} for name in manifest.source_names], "window_samples": 12, "lanes": 3}
    model = {"transformers": {"model_type": "llama"}}
    value = {"name": "a", "data": data, "model": model, "train": {"steps": 40, "global_batch": 6}}
    return RunConfig.model_validate(
        value | {"prepare": {"mode": "ahead", "tokens": {"train_bpe": 300}}, "task": {"seq_len": 7}}
    )


@pytest.fixture
def whole():
    return make_corpus(4, shards_by_segment=((6,), (8,), (9,)), most_documents=12)


def open_stream(config, manifest, order, stop=40):
    batches = PackedBatches(order, TokenReader(manifest, "train"))
    options = {"skips": Skips(), "prefetch_bytes": 2000}
    return Stream(batches, World.flat(0, 1), first_step=0, stop_step=stop, **options)


def test_a_stream_over_growing_data_waits_and_feeds_what_it_would_have_fed(whole):
    config, manifest = make_config(whole), PreparedMeanwhile.of(whole)
    growing, order = GrowingOrder(config, manifest, lambda: True, POLL_S), Order.of(config, whole)
    with open_stream(config, whole, order) as straight, open_stream(config, manifest, growing) as stream:
        for expected in straight:
            missing = int(order.slots(expected.step).unit.max()) >= len(manifest.segments)
            if missing:
                threading.Timer(0.3, manifest.more.release).start()
            batch = next(stream)
            assert not missing or stream.wait_s > 0.2
            assert (batch.step, batch.sums, batch.spans) == (expected.step, expected.sums, expected.spans)
            assert np.array_equal(batch.fields["tokens"], expected.fields["tokens"])
    assert growing.known.is_whole


def test_who_may_not_wait_any_longer_is_told_which_segment_is_missing(whole):
    config, manifest = make_config(whole), PreparedMeanwhile.of(whole)
    told = threading.Event()
    growing = GrowingOrder(config, manifest, lambda: not told.is_set(), POLL_S)
    threading.Timer(0.2, told.set).start()
    with open_stream(config, manifest, growing) as stream, pytest.raises(NotPrepared, match="segment 1 of 3"):
        list(stream)
    assert told.is_set()


def test_what_is_there_is_fed_without_asking(whole):
    manifest = PreparedMeanwhile.of(whole)
    growing = GrowingOrder(make_config(whole), manifest, lambda: False, POLL_S)
    growing.slots(0)
    assert not manifest.asked.is_set()


def test_threads_that_wait_together_all_go_on(whole):
    config, manifest = make_config(whole), PreparedMeanwhile.of(whole)
    growing, order = GrowingOrder(config, manifest, lambda: True, POLL_S), Order.of(config, whole)
    steps = [step for step in range(40) if order.slots(step).unit.max() == 2][:6]
    found = {}
    threads = [threading.Thread(target=lambda step=step: found.update({step: growing.slots(step)})) for step in steps]
    for thread in threads:
        thread.start()
    assert manifest.asked.wait(10)
    assert not found
    manifest.more.release(2)
    for thread in threads:
        thread.join(10)
    assert {step: slots.index.tolist() for step, slots in found.items()} == {
        step: order.slots(step).index.tolist() for step in steps
    }
