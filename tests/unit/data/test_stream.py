import threading
import time

import numpy as np
import pytest

from orchestrator.core.errors import DataError, StoreDown
from orchestrator.core.words import World
from orchestrator.data.feeding.packed import PackedBatches
from orchestrator.data.feeding.read import TokenReader
from orchestrator.data.feeding.stream import MOST_AHEAD, Stream
from orchestrator.data.ordering.skips import Skips
from tests.fakes.corpus import make_corpus, make_order

A_BATCH = 6 * 7 * 12  # bytes that a batch of the fake order counts for


class GatedReader(TokenReader):
    """Counts spans read; waits before each batch while the gate is closed."""

    def __init__(self, manifest):
        super().__init__(manifest, "train")
        self.gate = threading.Event()
        self.gate.set()
        self.count = 0

    def fill(self, out, at, span):
        assert self.gate.wait(10)
        self.count += at.size
        return super().fill(out, at, span)


def open_stream(manifest, reader, first=0, stop=20, **options):
    arguments = {"skips": Skips(), "prefetch_bytes": 10 * A_BATCH, **options}
    batches = PackedBatches(make_order(manifest), reader)
    return Stream(batches, World.flat(0, 1), first_step=first, stop_step=stop, **arguments)


@pytest.mark.parametrize("prefetch_bytes", [1, 3 * A_BATCH, 2**20])
def test_a_stream_is_the_batches_of_its_steps_in_order(prefetch_bytes):
    manifest = make_corpus(1)
    reader, skips = TokenReader(manifest, "train"), Skips(voided=frozenset({5}))
    with open_stream(manifest, reader, 2, 12, skips=skips, prefetch_bytes=prefetch_bytes) as stream:
        batches = list(stream)
    assert [batch.step for batch in batches] == list(range(2, 12))
    for batch in batches:
        expected = PackedBatches(make_order(manifest), reader).make(batch.step, World.flat(0, 1), skips)
        assert (batch.sums, batch.spans, batch.weight) == (expected.sums, expected.spans, expected.weight)
        assert np.array_equal(batch.fields["tokens"], expected.fields["tokens"])


def test_a_stream_begun_later_gives_what_a_longer_one_gives_then():
    manifest = make_corpus(1)
    with (
        open_stream(manifest, TokenReader(manifest, "train")) as whole,
        open_stream(manifest, TokenReader(manifest, "train"), 13) as resumed,
    ):
        assert [batch.sums for batch in whole][13:] == [batch.sums for batch in resumed]


def test_reading_ahead_is_bounded_in_bytes():
    manifest = make_corpus(1)
    reader = GatedReader(manifest)
    sizes = [sum(map(len, batch.spans)) for batch in open_stream(manifest, TokenReader(manifest, "train"))]
    stream = open_stream(manifest, reader, prefetch_bytes=3 * A_BATCH)
    next(stream)
    stream._threads.submit(int).result(10)  # what was asked for has been made
    assert reader.count == sum(sizes[:4])
    stream.close()


def test_what_fails_in_the_thread_is_raised_in_order_and_ends_the_stream():
    manifest = make_corpus(1)
    order = make_order(manifest)
    broken = order.spans(order.slots(3), 0)[0]

    class FailingReader(TokenReader):
        def fill(self, out, at, span):
            if broken in zip(*(column.tolist() for column in span), strict=True):
                raise DataError("bit rot", where="a.tar")
            return super().fill(out, at, span)

    stream = open_stream(manifest, FailingReader(manifest, "train"))
    assert [next(stream).step for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match="bit rot"):
        next(stream)
    assert list(stream) == []


def test_close_waits_for_the_thread_and_ends_the_stream():
    manifest = make_corpus(1)
    stream = open_stream(manifest, TokenReader(manifest, "train"))
    next(stream)
    stream.close()
    stream.close()
    assert list(stream) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("stream")]


def test_close_does_not_wait_for_a_store_that_is_down():
    batches = GatedBatches()
    stream = stream_of(batches)
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 5
    assert batches.closed
    assert any(thread.name.startswith("stream") for thread in threading.enumerate())  # still waiting, and a daemon
    assert all(thread.daemon for thread in threading.enumerate() if thread.name.startswith("stream"))
    for gate in batches.gates:
        gate.set()


def test_waiting_is_measured():
    manifest = make_corpus(1)
    reader = GatedReader(manifest)
    reader.gate.clear()
    stream = open_stream(manifest, reader, prefetch_bytes=2**20)
    opener = threading.Timer(0.3, reader.gate.set)
    opener.start()
    next(stream)
    waited = stream.wait_s
    assert waited > 0.05
    stream._threads.submit(int).result(10)
    next(stream)
    assert stream.wait_s < waited
    stream.close()
    opener.join()


def test_a_stream_of_no_steps_is_empty():
    manifest = make_corpus(1)
    with open_stream(manifest, TokenReader(manifest, "train"), 5, 5) as stream:
        assert list(stream) == []


class GatedBatches:
    """Steps are made when their gate is opened, by two threads at once."""

    workers = 2

    def __init__(self, problems=None):
        self.gates = [threading.Event() for _ in range(6)]
        self.begun, self.problems, self.closed = [], problems or {}, 0

    def make(self, step, world, skips):
        self.begun.append(step)
        assert self.gates[step].wait(10)
        if step in self.problems:
            raise self.problems[step]
        return step

    def size_bytes(self, step, world):
        return 1

    def close(self):
        self.closed += 1


def stream_of(batches, **options):
    arguments = {"first_step": 0, "stop_step": 6, "skips": Skips(), "prefetch_bytes": 4, **options}
    return Stream(batches, World.flat(0, 1), **arguments)


def test_batches_made_at_once_come_in_the_order_of_their_steps():
    batches = GatedBatches()
    stream = stream_of(batches)
    for gate in reversed(batches.gates):
        gate.set()
    assert list(stream) == list(range(6))
    stream.close()
    assert batches.closed


def test_a_store_that_is_down_ends_the_stream_when_its_batch_is_asked_for():
    batches = GatedBatches({1: StoreDown("does not answer", where="s3://bucket")})
    for gate in batches.gates:
        gate.set()
    stream = stream_of(batches)
    assert next(stream) == 0
    with pytest.raises(StoreDown, match="does not answer"):
        next(stream)
    assert list(stream) == []
    assert batches.closed


def test_many_small_batches_are_not_all_asked_for_at_once():
    manifest = make_corpus(1)
    with open_stream(manifest, TokenReader(manifest, "train"), stop=10_000, prefetch_bytes=2**40) as stream:
        next(stream)
        assert len(stream._ahead) <= MOST_AHEAD
