import contextlib
import time

import numpy as np
import pytest

from orchestrator.core.errors import DataError
from orchestrator.core.words import World
from orchestrator.data.decoding.draws import sample_keys
from orchestrator.data.feeding import samples
from orchestrator.data.feeding.feed import open_batches
from orchestrator.data.ordering.ledger import Sums, digest
from orchestrator.data.ordering.order import Order, ValidationOrder
from orchestrator.data.ordering.skips import Skips
from orchestrator.prepare.run import prepare
from tests.fakes.arrays import array_config, value_of, write_arrays

ALONE = World.flat(0, 1)
BROKEN = (5, 20, 21)


class Feed:
    """A prepared dataset of five shards of six samples, three of which do not decode."""

    def __init__(self, root, broken=BROKEN, **data):
        write_arrays(root / "data", 5, broken=broken)
        self.config = array_config(root, data)
        self.manifest = prepare(self.config)
        self.order = Order.of(self.config, self.manifest)

    def make(self, step=0, world=ALONE, skips=None, threads=1):
        batches = open_batches(self.config, self.manifest, self.order, "train", threads)
        try:
            return batches.make(step, world, skips or Skips())
        finally:
            batches.close()

    def make_world(self, step, size, skips=None):
        return [self.make(step, World.flat(rank, size), skips) for rank in range(size)]

    def number_of(self, ordinal, place):
        return int(self.manifest.keys(ordinal)[place][1:])

    def step_of(self, number):
        """The first step that a sample is part of."""
        for step in range(20):
            slots = self.order.slots(step)
            spans = [self.order.spans(slots, i)[0] for i in range(8)]
            if number in [self.number_of(span.ordinal, span.place) for span in spans]:
                return step
        raise AssertionError("never")


@pytest.fixture(scope="module")
def feed(tmp_path_factory):
    return Feed(tmp_path_factory.mktemp("arrays"))


def test_rows_are_the_samples_that_the_order_names(feed):
    for step in range(6):
        batch, slots = feed.make(step), feed.order.slots(step)
        holes = {hole.position for hole in batch.holes}
        for row in range(8):
            (span,) = feed.order.spans(slots, row)
            number = feed.number_of(span.ordinal, span.place)
            assert (number in BROKEN) == (int(slots.position[row]) in holes)
            if number not in BROKEN:
                assert np.array_equal(batch.fields["values"][row], value_of(number))
                assert batch.fields["label"][row] == number
                assert batch.spans[row] == [span]
                assert batch.fields["weights"][row] == 1
    assert batch.fields["values"].dtype == np.float32
    assert batch.fields["label"].dtype == np.int64
    assert batch.fields["weights"].dtype == np.float32


@pytest.mark.parametrize("size", [2, 3, 5, 11])
def test_any_world_feeds_the_same_rows_and_sums(feed, size):
    for step in range(6):
        whole, parts = feed.make(step), feed.make_world(step, size)
        good = np.flatnonzero(whole.fields["weights"])
        for name, values in whole.fields.items():
            joined = np.concatenate([part.fields[name] for part in parts])
            assert joined.dtype == values.dtype
            assert np.array_equal(joined[good], values[good])
            assert name != "weights" or np.array_equal(joined, values)
        assert sum((part.sums for part in parts), Sums()) == whole.sums
        assert sum(part.count for part in parts) == sum(part.weight for part in parts) == whole.count
        assert [row for part in parts for row in part.spans] == whole.spans
        assert [hole for part in parts for hole in part.holes] == list(whole.holes)


def test_threads_change_nothing(feed):
    for step in range(4):
        one, many = feed.make(step), feed.make(step, threads=3)
        assert one.sums == many.sums
        assert one.holes == many.holes
        assert (one.figures.read_bytes, one.figures.fetched) == (many.figures.read_bytes, many.figures.fetched)
        for name, values in one.fields.items():
            assert np.array_equal(many.fields[name], values)


def test_pieces_change_nothing(feed, monkeypatch):
    whole = [feed.make(step) for step in range(4)]
    monkeypatch.setattr(samples, "PIECE_BYTES", 1)
    for one in whole:
        cut = feed.make(one.step)
        assert (cut.sums, cut.holes, cut.figures.read_bytes) == (one.sums, one.holes, one.figures.read_bytes)
        for name, values in one.fields.items():
            assert np.array_equal(cut.fields[name], values)


def test_the_sums_are_those_of_the_manifests_checksums(feed):
    batch, slots = feed.make(1), feed.order.slots(1)
    spans = [span for row in batch.spans for span in row]
    positions = [int(slots.position[row]) for row, found in enumerate(batch.spans) if found]
    checksums = []
    for span in spans:
        kept = feed.manifest.places(span.ordinal, "train").tolist().index(span.place)
        high, low = feed.manifest.checksums(span.ordinal, "train")[kept].tolist()
        checksums.append((high << 64 | low).to_bytes(16))
    assert batch.sums == digest(positions, [0] * len(spans), spans, checksums)
    assert batch.count == len(spans)


def test_what_does_not_decode_is_a_hole_with_its_reason_and_has_no_part_in_anything(feed):
    step = feed.step_of(5)
    batch = feed.make(step)
    row = next(row for row in range(8) if not batch.spans[row] and feed_number(feed, step, row) == 5)
    hole = next(hole for hole in batch.holes if feed.number_of(hole.ordinal, hole.place) == 5)
    first_good = int(batch.fields["weights"].argmax())
    assert "values (npy)" in hole.reason
    assert hole.position == feed.order.slots(step).position[row]
    assert batch.fields["weights"][row] == batch.fields["draw_keys"][row] == 0
    assert np.array_equal(batch.fields["values"][row], batch.fields["values"][first_good])
    assert batch.weight == batch.count == 8 - len(batch.holes)


def feed_number(feed, step, row):
    (span,) = feed.order.spans(feed.order.slots(step), row)
    return feed.number_of(span.ordinal, span.place)


def test_a_known_hole_gives_the_same_batch_without_being_read(feed):
    step = feed.step_of(5)
    found = feed.make(step)
    known = feed.make(step, skips=Skips(holes=frozenset((step, hole.position) for hole in found.holes)))
    assert known.holes == ()
    assert known.sums == found.sums
    assert known.count == found.count
    assert known.figures.read_bytes < found.figures.read_bytes
    for name, values in found.fields.items():
        assert np.array_equal(known.fields[name], values)


def test_a_voided_step_is_not_read_and_shifts_nothing(feed):
    skips = Skips(voided=frozenset({2}))
    void = feed.make(2, skips=skips)
    assert (void.weight, void.count, void.sums, void.holes) == (0, 0, Sums(), ())
    assert void.figures.read_bytes == 0
    assert len(void.fields["weights"]) == 8
    assert feed.make(3, skips=skips).sums == feed.make(3).sums


def test_a_rank_without_a_good_sample_has_the_batches_first_good_one(feed):
    position = feed.order.slots(0).position
    whole = feed.make(0)
    skips = Skips(holes=frozenset((0, int(at)) for at in position[:3]))
    first = feed.make(0, World.flat(0, 4), skips)  # rows 0 and 1, both skipped
    none = feed.make(0, World.flat(0, 11), skips)  # no row at all
    good = next(row for row in range(3, 8) if whole.spans[row])
    assert first.weight == none.weight == 0
    assert np.array_equal(first.fields["values"], np.stack([whole.fields["values"][good]] * 2))
    assert none.fields["values"].shape == (0, 2, 3)
    assert none.fields["label"].dtype == np.int64


def test_draw_keys_are_those_of_sample_and_epoch(feed):
    later = next(step for step in range(20) if feed.order.epochs(feed.order.slots(step)).all())
    for step, epoch in ((0, 0), (later, 1)):
        batch = feed.make(step)
        for row, spans in enumerate(batch.spans):
            for span in spans:
                expected = sample_keys(feed.config.seed, epoch, span.ordinal, span.place)
                assert batch.fields["draw_keys"][row] == expected


def test_values_of_unequal_shapes_are_named_with_the_way_out(tmp_path):
    feed = Feed(tmp_path, broken=(), transforms=[{"name": "tests.fakes.array_steps.cut_by_label"}])
    with pytest.raises(DataError, match="add a resize transform") as caught:
        feed.make()
    assert caught.value.where == "data.fields.values"
    assert "data/000" in caught.value.message
    assert "float32 [2, 3]" in caught.value.message
    assert "float32 [1, 3]" in caught.value.message


@pytest.mark.parametrize("processes", [0, 1])
def test_a_transform_that_fails_is_named_with_its_sample(tmp_path, processes):
    transforms = [{"name": "tests.fakes.array_steps.refuse_label", "args": {"label": 7}}]
    feed = Feed(tmp_path, broken=(), transforms=transforms, workers={"processes": processes})
    with pytest.raises(DataError, match="refuse_label failed") as caught:
        feed.make(feed.step_of(7))
    assert caught.value.where == "data.transforms.0, sample data/0001.tar/a0007"


def test_processes_decode_the_same(tmp_path, feed):
    apart = Feed(tmp_path, workers={"processes": 2})
    batches = open_batches(apart.config, apart.manifest, apart.order, "train")
    for step in range(3):
        one, other = feed.make(step), batches.make(step, ALONE, Skips())
        assert (one.sums, one.holes) == (other.sums, other.holes)
        for name, values in one.fields.items():
            assert np.array_equal(other.fields[name], values)
    batches.close()


def test_validation_feeds_every_sample_of_its_split_once(tmp_path):
    feed = Feed(tmp_path, broken=(), split={"validation": 0.4})
    order = ValidationOrder.of(feed.config, feed.manifest)
    batches = open_batches(feed.config, feed.manifest, order, "validation")
    labels = np.concatenate([batches.make(n, ALONE, Skips()).fields["label"] for n in range(order.num_batches)])
    assert len(set(labels.tolist())) == labels.size == feed.manifest.kept("validation").sum() > 0


def test_the_first_batch_of_a_late_step_costs_what_the_first_of_all_does(feed):
    def time_first(step):
        began = time.perf_counter()
        feed.make(step)
        return time.perf_counter() - began

    early, late = (min(time_first(step + n) for n in range(5)) for step in (0, 1_000_000))
    assert late < 5 * early


def test_the_size_of_a_batch_is_learned(feed):
    batches = open_batches(feed.config, feed.manifest, feed.order, "train")
    guessed = batches.size_bytes(0, ALONE)
    batches.make(0, ALONE, Skips())
    assert batches.size_bytes(1, ALONE) == 8 * (2 * 3 * 4 + 8) < guessed
    assert batches.size_bytes(1, World.flat(0, 4)) == 2 * (2 * 3 * 4 + 8)
    batches.close()


# ---- one sample beyond the slice, for data.mixup ----

MIXED = {"mixup": {"alpha": 1.0}}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    return Feed(tmp_path_factory.mktemp("mixed"), **MIXED)


def all_rows(batches):
    return {name: np.concatenate([batch.fields[name] for batch in batches]) for name in batches[0].fields}


@pytest.mark.parametrize("size", [1, 2, 3, 8, 11])
def test_beyond_a_ranks_slice_comes_the_next_sample_of_the_batch_as_its_own_rank_has_it(mixed, size):
    for step in range(5):
        batches = mixed.make_world(step, size)
        rows = all_rows(batches)
        for batch in batches:
            if not len(batch.slots):
                continue
            following = batch.slots.stop % 8
            assert batch.beyond.keys() == batch.fields.keys()
            assert batch.beyond["weights"] == rows["weights"][following]
            assert batch.beyond["draw_keys"] == rows["draw_keys"][following]
            if rows["weights"][following]:
                assert np.array_equal(batch.beyond["values"][0], rows["values"][following])
                assert batch.beyond["label"] == rows["label"][following]


def test_the_sample_beyond_is_in_no_ledger_and_no_hole_is_told_twice(feed, mixed):
    for step in range(5):
        for plain, more in zip(feed.make_world(step, 3), mixed.make_world(step, 3), strict=True):
            assert (more.sums, more.count, more.weight, more.holes) == (
                plain.sums,
                plain.count,
                plain.weight,
                plain.holes,
            )
            assert all(np.array_equal(more.fields[name], plain.fields[name]) for name in plain.fields)
            assert more.figures.read_bytes > plain.figures.read_bytes
            assert not plain.beyond


def test_a_hole_beyond_the_slice_is_a_copy_without_weight_on_replay_too(tmp_path):
    feed = Feed(tmp_path, broken=(5,), **MIXED)
    step = feed.step_of(5)
    (hole,) = [hole for batch in feed.make_world(step, 8) for hole in batch.holes]
    at = int(np.flatnonzero(feed.order.slots(step).position == hole.position)[0])
    known = Skips(holes=frozenset({(step, hole.position)}))
    first, again = (feed.make(step, World.flat((at - 1) % 8, 8), skips) for skips in (Skips(), known))
    for batch in (first, again):
        assert batch.fields["weights"] == [1]
        assert batch.beyond["weights"] == [0]
        assert np.array_equal(batch.beyond["values"], batch.fields["values"])
    assert again.figures.read_bytes < first.figures.read_bytes


def test_a_sample_beyond_of_another_shape_is_named_with_the_way_out(tmp_path):
    feed = Feed(tmp_path, broken=(), transforms=[{"name": "tests.fakes.array_steps.cut_by_label"}], **MIXED)
    told = r"a sample of its batch is .* and data/000\d.tar/a\d+ is .* a batch needs them alike"
    with pytest.raises(DataError, match=told):
        feed.make_world(0, 8)


def test_validation_has_no_sample_beyond(tmp_path):
    write_arrays(tmp_path / "data", 5)
    config = array_config(tmp_path, {**MIXED, "split": {"validation": 0.5}})
    manifest = prepare(config)
    order = ValidationOrder.of(config, manifest)
    with contextlib.closing(open_batches(config, manifest, order, "validation")) as batches:
        assert batches.make(0, World.flat(0, 2), Skips()).beyond == {}
