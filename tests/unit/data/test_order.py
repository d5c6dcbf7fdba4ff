from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config.data import DataSection, Phase, Source
from orchestrator.config.model import ModelSection
from orchestrator.config.preparing import PrepareSection, TokensSection
from orchestrator.config.reading import FieldSection
from orchestrator.config.run import RunConfig
from orchestrator.config.task import TaskSection
from orchestrator.config.training import TrainSection
from orchestrator.core.errors import ConfigError, DataError, NotPrepared
from orchestrator.data.ordering.mixing import BLOCK, quotas_of
from orchestrator.data.ordering.order import Order, ValidationOrder, rank_slice
from orchestrator.data.ordering.row import Shuffling
from tests.fakes.corpus import FakeManifest, FakeShard, make_corpus, make_order
from tests.fakes.slow_order import SlowSlot, slow_batches

ONE_SOURCE = ((6,), (4,), (3,))


def rows_of(slots):
    return list(zip(slots.position, slots.source, slots.unit, slots.index, slots.lane, strict=True))


def test_batches_laid_out_together_are_those_of_each_step_alone():
    phases = [Phase(from_step=3, global_batch=8), Phase(from_step=5, global_batch=2)]
    manifest = make_corpus(1)
    together = make_order(manifest, phases=phases)
    for step in (0, 2, 3, 4, 5, 6, 500):
        alone = make_order(manifest, phases=phases).slots_of(range(step, step + 1))
        assert sorted(rows_of(together.slots(step))) == sorted(rows_of(alone))
        assert together.slots(step).position.size == together.batch_size(step)


def batch_of(order, step):
    """A batch with what it is made of."""
    slots = order.slots(step)
    return [(*row, order.spans(slots, i)) for i, row in enumerate(rows_of(slots))]


def by_position(order, steps):
    """What every position of these steps is made of."""
    return {row[0]: row[1:] for step in steps for row in batch_of(order, step)}


def tokens_of(spans):
    return tuple((span.ordinal, span.place, n) for span in spans for n in range(span.first, span.first + span.count))


def targets_of(spans):
    return tokens_of(spans)[1:]


def as_slow(order, step):
    """A batch as the slow order gives it; a sample that is fed whole has no tokens."""
    return [
        SlowSlot(*map(int, columns), tokens_of(spans) or tuple(span[:3] for span in spans))
        for *columns, spans in batch_of(order, step)
    ]


@settings(max_examples=15, deadline=None)
@given(
    corpus_seed=st.integers(0, 10_000),
    seed=st.integers(0, 2**63 - 1),
    share=st.floats(0.01, 0.99),
    global_batch=st.integers(1, 20),
    seq_len=st.integers(1, 30),
    window_samples=st.integers(1, 40),
    lanes=st.integers(1, 8),
)
def test_order_is_that_of_the_slow_and_obvious_one(
    corpus_seed, seed, share, global_batch, seq_len, window_samples, lanes
):
    manifest = make_corpus(corpus_seed, shards_by_segment=((3, 2), (2, 0), (0, 2)), most_documents=4)
    weights = [share, 1 - share]
    try:
        order = make_order(
            manifest, seed=seed, weights=weights, global_batch=global_batch, seq_len=seq_len,
            shuffling=Shuffling(window_samples=window_samples, lanes=lanes),
        )  # fmt: skip
    except DataError:
        return  # a source happened to be empty
    slow = slow_batches(
        manifest, seed=seed, quotas=quotas_of(weights), global_batch=global_batch, seq_len=seq_len,
        window_samples=window_samples, lanes=lanes,
    )  # fmt: skip
    for step, expected in enumerate(islice(slow, 60 // global_batch + 2)):
        assert as_slow(order, step) == expected


@settings(max_examples=15, deadline=None)
@given(
    corpus_seed=st.integers(0, 10_000),
    seed=st.integers(0, 2**63 - 1),
    share=st.floats(0.01, 0.99),
    global_batch=st.integers(1, 20),
    window_samples=st.integers(1, 40),
    window_bytes=st.integers(1, 5000),
    run_samples=st.integers(1, 9),
    lanes=st.integers(1, 8) | st.just("auto"),
)
def test_the_order_of_samples_is_that_of_the_slow_and_obvious_one(
    corpus_seed, seed, share, global_batch, window_samples, window_bytes, run_samples, lanes
):
    manifest = make_corpus(corpus_seed, shards_by_segment=((9, 2), (20, 0), (0, 2)), most_documents=6)
    if not all(manifest.kept("train")[np.concatenate(manifest.segments_of(source))].sum() for source in (0, 1)):
        return  # a source happened to be empty
    layout = {"window_samples": window_samples, "window_bytes": window_bytes, "run_samples": run_samples}
    weights = [share, 1 - share]
    order = make_order(
        manifest, seed=seed, weights=weights, global_batch=global_batch, seq_len=None,
        shuffling=Shuffling(lanes=lanes, **layout),
    )  # fmt: skip
    slow = slow_batches(
        manifest, seed=seed, quotas=quotas_of(weights), global_batch=global_batch, seq_len=None, lanes=lanes, **layout
    )
    for step, expected in enumerate(islice(slow, 200 // global_batch + 2)):
        assert as_slow(order, step) == expected


@pytest.mark.parametrize("corpus_seed", range(5))
def test_an_epoch_has_every_target_once(corpus_seed):
    manifest = make_corpus(corpus_seed, shards_by_segment=ONE_SOURCE)
    order = make_order(manifest, global_batch=1)
    first, later = order.rows[0].epoch_count, order.unit(0, 3).count
    for epoch, positions in enumerate((range(first), range(first, first + later))):
        fed = [spans for *_, spans in by_position(order, positions).values()]
        targets = Counter(target for spans in fed for target in targets_of(spans))
        units = 3 if epoch == 0 else 1
        assert targets.total() == len(targets) == manifest.totals("train").sum() - units
        assert {int(order.epochs(order.slots(step))[0]) for step in positions} == {epoch}


def test_plain_samples_come_once_an_epoch():
    manifest = make_corpus(1, shards_by_segment=ONE_SOURCE)
    order = make_order(manifest, seq_len=None, global_batch=1)
    kept = sorted((ordinal, int(place)) for ordinal in range(13) for place in manifest.places(ordinal, "train"))
    for epoch in range(3):
        positions = range(epoch * len(kept), (epoch + 1) * len(kept))
        found = [spans[0] for *_, spans in by_position(order, positions).values()]
        assert sorted(span[:2] for span in found) == kept


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 100), st.lists(st.integers(0, 10**9), min_size=1, max_size=3))
def test_any_step_may_be_asked_for_first(corpus_seed, steps):
    manifest = make_corpus(corpus_seed, shards_by_segment=((5, 4), (4, 4)), most_documents=12)
    walked = make_order(manifest)
    for step in [0, 1, *steps, *steps[::-1]]:
        assert batch_of(walked, step) == batch_of(make_order(manifest), step)


def test_a_run_that_follows_preparation_equals_one_that_waits_for_it():
    manifest = make_corpus(4, shards_by_segment=((6, 4), (6, 4), (6, 4)))
    whole, early = make_order(manifest), make_order(manifest.prefix(2))
    ready = min(row.epoch_count for row in early.rows.values()) // 6
    assert ready > 5
    assert [batch_of(whole, step) for step in range(ready)] == [batch_of(early, step) for step in range(ready)]


SAMPLES = {"seq_len": None, "shuffling": Shuffling(window_samples=12, window_bytes=900, run_samples=3)}
PACKED = {"shuffling": Shuffling(window_samples=12)}


@settings(max_examples=20, deadline=None)
@given(
    corpus_seed=st.integers(0, 100),
    feeding=st.sampled_from([PACKED, SAMPLES]),
    worlds=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 15)), min_size=1, max_size=6),
)
def test_every_sequence_of_worlds_feeds_one_global_order(corpus_seed, feeding, worlds):
    """Ranks come and go, each time with a manifest that has grown meanwhile; a run keeps to the part it began with."""
    manifest = make_corpus(corpus_seed, shards_by_segment=((20, 5), (9, 4), (4, 4), (7, 7)), most_documents=12)
    straight = make_order(manifest.prefix(2), global_batch=16, **feeding)
    step = 0
    for world, num_steps in worlds:
        order = make_order(manifest.prefix(4).prefix(2), global_batch=16, **feeding)
        for now in range(step, step + num_steps):
            slots = order.slots(now)
            ranks = [rank_slice(slots.position.size, rank, world) for rank in range(world)]
            assert sorted(i for own in ranks for i in own) == list(range(16))
            fed = [(*rows_of(slots)[i], order.spans(slots, i)) for own in ranks for i in own]
            assert fed == batch_of(straight, now)
        step += num_steps


def test_data_that_comes_later_changes_no_unit_of_what_was_there():
    manifest = make_corpus(4, shards_by_segment=((20, 14), (40, 14), (6, 4)))
    whole, early = make_order(manifest, **SAMPLES), make_order(manifest.prefix(2), **SAMPLES)
    ready = min(row.epoch_count for row in early.rows.values()) // 6
    assert ready > 5
    assert [batch_of(whole, step) for step in range(ready)] == [batch_of(early, step) for step in range(ready)]


def test_packing_knows_no_runs_and_no_windows_in_bytes():
    manifest = make_corpus(2)
    plain = make_order(manifest, shuffling=Shuffling(window_samples=12, lanes=3))
    limited = make_order(manifest, shuffling=Shuffling(window_samples=12, lanes=3, window_bytes=50, run_samples=5))
    assert [batch_of(plain, step) for step in range(20)] == [batch_of(limited, step) for step in range(20)]


@pytest.mark.parametrize("feeding", [PACKED, SAMPLES], ids=["packed", "samples"])
def test_lanes_follow_the_shards_of_each_unit(feeding):
    order = make_order(make_corpus(1, shards_by_segment=((15,), (16,), (1100,)), most_documents=3), **feeding)
    assert [order.unit(0, number).lanes for number in range(5)] == [1, 2, 128, 128, 128]
    unit = order.unit(0, 2)
    assert np.bincount(unit.index(np.arange(unit.count))[1]).size == 128


@given(st.integers(0, 10_000_000))
def test_lanes_are_a_power_of_two_with_enough_shards_each(shards):
    lanes = Shuffling(window_samples=1).lanes_of(shards)
    assert lanes in {2**i for i in range(8)}
    assert lanes == 1 or lanes * 8 <= shards
    assert lanes == 128 or lanes * 2 * 8 > shards


def test_stated_lanes_hold_for_every_unit_and_shard_order_has_one():
    assert {Shuffling(window_samples=1, lanes=5).lanes_of(shards) for shards in (0, 9, 10**6)} == {5}
    assert Shuffling(window_samples=1, enabled=False).lanes_of(10**6) == 1


def test_batches_are_sorted_by_lane_so_that_neighbours_share_shards():
    order = make_order(make_corpus(2), global_batch=40)
    for step in range(5):
        slots = order.slots(step)
        columns = list(zip(slots.lane, slots.source, slots.unit, slots.index, strict=True))
        assert columns == sorted(columns)
        assert sorted(slots.position) == list(range(40 * step, 40 * step + 40))


def test_sources_keep_their_shares_over_many_batches():
    manifest = make_corpus(2)
    order = make_order(manifest, weights=[3.0, 1.0], global_batch=4096, seq_len=1)
    taken = np.bincount(np.concatenate([order.slots(step).source for step in range(BLOCK // 4096)]))
    assert taken.tolist() == list(quotas_of([3.0, 1.0]))


@given(st.integers(0, 300), st.integers(1, 64))
def test_slices_are_disjoint_complete_and_even(count, world):
    slices = [rank_slice(count, rank, world) for rank in range(world)]
    assert [slot for own in slices for slot in own] == list(range(count))
    assert max(map(len, slices)) - min(map(len, slices)) <= 1


def test_a_batch_ramp_cuts_the_same_sequence_of_samples():
    manifest = make_corpus(6)
    plain = make_order(manifest, global_batch=4)
    phases = [Phase(from_step=3, global_batch=8), Phase(from_step=5, global_batch=2)]
    ramp = make_order(manifest, global_batch=4, phases=phases)
    assert [ramp.batch_size(step) for step in range(7)] == [4, 4, 4, 8, 8, 2, 2]
    assert [ramp.first_position(step) for step in range(8)] == [0, 4, 8, 12, 20, 28, 30, 32]
    assert by_position(ramp, range(7)) == by_position(plain, range(8))


def test_a_phase_with_other_weights_goes_on_where_each_source_stood():
    manifest = make_corpus(7)
    phases = [
        Phase(from_step=10, weights={"source0": 1, "source1": 9}),
        Phase(from_step=20, weights={"source0": 1, "source1": 0}),
    ]
    order = make_order(manifest, weights=[2.0, 1.0], phases=phases)
    parts = [by_position(order, range(begin, begin + 10)) for begin in (0, 10, 20)]
    walked = {**parts[0], **parts[1], **parts[2]}
    plain = [make_order(manifest, weights=[1.0 - n, float(n)]) for n in (0, 1)]
    for n in (0, 1):
        own = [walked[position] for position in sorted(walked) if walked[position][0] == n]
        alone = by_position(plain[n], range(30))
        assert own == [alone[position] for position in range(len(own))]
    shares = [sum(row[0] == 1 for row in part.values()) for part in parts]
    assert shares[0] < 40
    assert shares[1] > 45
    assert shares[2] == 0


def test_a_new_sequence_length_begins_a_new_unit_for_every_source():
    manifest = make_corpus(8, shards_by_segment=((8, 8), (8, 8), (8, 8)), most_documents=12)
    order = make_order(manifest, phases=[Phase(from_step=4, seq_len=11)])
    before, after = order.slots(3), [order.slots(step) for step in range(4, 200)]
    assert [order.seq_len(step) for step in (3, 4)] == [7, 11]
    for source in (0, 1):
        units = np.concatenate([slots.unit[slots.source == source] for slots in after])
        assert units.min() == before.unit[before.source == source].max() + 1
        per_unit = Counter(
            (int(slots.unit[i]), int(slots.index[i])) for slots in after for i in np.flatnonzero(slots.source == source)
        )
        assert max(per_unit.values()) == 1
        first = order.unit(source, int(units.min()))
        assert sum(unit == units.min() for unit, _ in per_unit) == first.count
        assert first.count == -(-(first.total - 1) // 11)


def test_a_new_sequence_length_at_a_unit_boundary_passes_nothing_over():
    manifest = make_corpus(9, shards_by_segment=ONE_SOURCE)
    count = make_order(manifest).unit(0, 0).count
    order = make_order(manifest, global_batch=1, phases=[Phase(from_step=count, seq_len=5)])
    assert [int(order.slots(step).unit[0]) for step in (count - 1, count)] == [0, 1]


phase_lists = st.lists(
    st.builds(
        lambda gap, batch, seq_len, share: (gap, {"global_batch": batch, "seq_len": seq_len, "weights": share}),
        st.integers(1, 12),
        st.none() | st.integers(1, 9),
        st.none() | st.integers(1, 30),
        st.none() | st.sampled_from([(1.0, 0.0), (0.0, 1.0), (1.0, 2.0)]),
    ),
    max_size=5,
)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 30), phase_lists)
def test_whatever_the_phases_a_unit_is_left_only_when_it_is_done_or_the_length_changes(corpus_seed, drawn):
    manifest = make_corpus(corpus_seed, most_documents=12)
    phases, lengths, step = [], [7], 0
    for gap, changes in drawn:
        step += gap
        weights = changes["weights"] and dict(zip(manifest.source_names, changes["weights"], strict=True))
        phases.append(Phase(from_step=step, **{**changes, "weights": weights}))
        lengths.append(changes["seq_len"] or lengths[-1])
    order = make_order(manifest, phases=phases)
    taken: dict[tuple[int, int], list[int]] = {}
    for position, (source, unit, index, *_) in sorted(by_position(order, range(step + 20)).items()):
        assert position == sum(map(len, taken.values()))
        taken.setdefault((int(source), int(unit)), []).append(int(index))
    for source in (0, 1):
        units = [unit for own, unit in taken if own == source]
        assert units == sorted(units)
        for unit in units:
            indices, whole = taken[source, unit], order.unit(source, unit)
            assert len(set(indices)) == len(indices)
            unfinished = len(indices) < whole.count and unit != units[-1]
            assert not unfinished or len(set(lengths)) > 1
    unfinished = sum(len(taken[key]) < order.unit(*key).count for key in taken)
    assert unfinished <= 2 * (1 + sum(one != other for one, other in pairwise(lengths)))


def test_a_phase_at_step_0_states_the_base_anew():
    manifest = make_corpus(9)
    base = Phase(from_step=0, seq_len=5, global_batch=3, weights={"source0": 1, "source1": 4})
    stated = make_order(manifest, phases=[base])
    plain = make_order(manifest, seq_len=5, global_batch=3, weights=[1.0, 4.0])
    assert [batch_of(stated, step) for step in range(20)] == [batch_of(plain, step) for step in range(20)]


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([Phase(from_step=5), Phase(from_step=5)], r"data.phases\[1\]: from_step 5 does not come after 5"),
        ([Phase(from_step=5, weights={"source0": 1.0, "text": 1.0})], r"unknown .*'text'\], missing .*'source1'\]"),
        ([Phase(from_step=5, weights={"source0": 0.0, "source1": 0.0})], "cannot be mixed"),
    ],
)
def test_phases_that_make_no_sense_are_refused(phases, message):
    with pytest.raises(ConfigError, match=message):
        make_order(make_corpus(0), phases=phases)


def test_a_source_without_anything_to_train_on_is_refused_by_name():
    manifest = make_corpus(0)
    for shard in manifest.shards:
        if shard.source == 1:
            shard.splits = [""] * len(shard.splits)
    with pytest.raises(DataError, match="'source1' has no token to predict in split 'train'"):
        make_order(manifest)
    assert make_order(manifest, weights=[1.0, 0.0]).slots(0).source.tolist() == [0] * 6


def test_empty_segments_are_passed_over():
    manifest = make_corpus(3, shards_by_segment=((0,), (4,), (0,), (3,), (0,)))
    order = make_order(manifest, global_batch=1)
    units = [int(order.slots(step).unit[0]) for step in range(order.rows[0].epoch_count + 1)]
    assert list(dict.fromkeys(units)) == [1, 3, 5]


def test_the_pass_of_every_slot_is_told():
    manifest = make_corpus(3, shards_by_segment=((4, 1), (0, 2), (3, 1)), most_documents=12)
    order = make_order(manifest, global_batch=100)
    seen = {0: set(), 1: set()}
    for step in range(4):
        slots = order.slots(step)
        for source, unit, epoch in zip(slots.source, slots.unit, order.epochs(slots), strict=True):
            assert epoch == (0 if unit < 3 else unit - 2)
            seen[int(source)].add(int(epoch))
    assert all(len(epochs) > 1 for epochs in seen.values())
    validation = ValidationOrder(make_corpus(3, train_share=0.4), "validation", global_batch=4, seq_len=7)
    assert validation.epochs(validation.slots(0)).tolist() == [0] * 4


def test_positions_and_steps_are_found_again():
    phases = [Phase(from_step=3, global_batch=8, weights={"source0": 1, "source1": 0}), Phase(from_step=5, seq_len=9)]
    order = make_order(make_corpus(6), weights=[1.0, 2.0], phases=phases)
    for step in range(9):
        slots = order.slots(step)
        assert {order.phases.step_of(int(position)) for position in slots.position} == {step}
        before, after = order.row_places(step), order.row_places(step + 1)
        for source in (0, 1):
            taken = np.sort(slots.position[slots.source == source]).tolist()
            assert [order.position_of(source, i) for i in range(before[source], after[source])] == taken
    assert order.position_of(1, order.row_places(9)[1]) is None


def test_steps_of_an_epoch_follow_from_the_share_of_a_source():
    order = make_order(make_corpus(3), weights=[3.0, 1.0], global_batch=8)
    assert order.epoch_steps(0) == pytest.approx(order.rows[0].epoch_count / 6, rel=1e-4)
    assert make_order(make_corpus(3), weights=[1.0, 0.0]).epoch_steps(0) == order.rows[0].epoch_count / 6


@pytest.mark.parametrize("global_batch", [1, 4, 1000])
@pytest.mark.parametrize("seq_len", [7, None])
def test_validation_has_everything_once_and_a_smaller_last_batch(global_batch, seq_len):
    manifest = make_corpus(3, train_share=0.4)
    order = ValidationOrder(manifest, "validation", global_batch=global_batch, seq_len=seq_len)
    sizes = [order.slots(step).position.size for step in range(order.num_batches)]
    assert sizes == [order.batch_size(step) for step in range(order.num_batches)]
    assert sum(sizes) == order.count
    assert set(sizes[:-1]) <= {global_batch}
    spans = [order.spans(order.slots(step), i) for step, size in enumerate(sizes) for i in range(size)]
    if seq_len is None:
        assert len({own[0][:2] for own in spans}) == len(spans) == manifest.kept("validation").sum()
    else:
        targets = Counter(target for own in spans for target in targets_of(own))
        assert targets.total() == len(targets) == manifest.totals("validation").sum() - 2  # a first token a source


def test_an_empty_validation_split_is_refused():
    with pytest.raises(DataError, match="split 'validation' is empty"):
        ValidationOrder(make_corpus(0, train_share=1.0), "validation", global_batch=4, seq_len=7)


def make_config(manifest, **data):
    sources = [Source(path=f"/data/{name}", weight=n + 1.0) for n, name in enumerate(manifest.source_names)]
    return RunConfig(
        name="a", seed=5, data=DataSection(train=sources, **data),
        prepare=PrepareSection(tokens=TokensSection(train_bpe=300)),
        task=TaskSection(seq_len=7), model=ModelSection(transformers={"model_type": "llama"}),
        train=TrainSection(steps=10, global_batch=6),
    )  # fmt: skip


def test_the_config_defines_the_order():
    manifest = make_corpus(1)
    phases = [Phase(from_step=2, global_batch=3)]
    config = make_config(manifest, window_samples=12, lanes=3, phases=phases)
    order, expected = Order.of(config, manifest), make_order(manifest, weights=[1.0, 2.0], phases=phases)
    assert [batch_of(order, step) for step in range(9)] == [batch_of(expected, step) for step in range(9)]
    assert ValidationOrder.of(config, manifest).batch_size(0) == 6


def test_the_config_defines_the_order_of_samples():
    manifest = make_corpus(1)
    fields = {"image": FieldSection(members=["jpg"])}
    text = make_config(manifest, window_samples=12, window_bytes=900, run_samples=3)
    data = text.data.model_copy(update={"fields": fields})
    config = text.model_copy(update={"data": data, "task": TaskSection(name="image_classification")})
    order, expected = Order.of(config, manifest), make_order(manifest, weights=[1.0, 2.0], **SAMPLES)
    assert [batch_of(order, step) for step in range(9)] == [batch_of(expected, step) for step in range(9)]
    assert ValidationOrder.of(config, manifest).seq_len(0) is None
    undecided = config.model_copy(update={"data": data.model_copy(update={"run_samples": "auto"})})
    with pytest.raises(ValueError, match=r"data\.run_samples is decided"):
        Order.of(undecided, manifest)


def test_a_manifest_of_other_sources_is_refused():
    manifest = make_corpus(1)
    config = make_config(manifest)
    with pytest.raises(DataError, match="the manifest has the sources"):
        Order.of(config, FakeManifest(manifest.shards, manifest.segments, ["source0", "other"]))


def test_without_shuffle_one_source_is_read_from_front_to_back():
    manifest = make_corpus(1, shards_by_segment=ONE_SOURCE)
    order = Order.of(make_config(manifest, shuffle=False, lanes=1), manifest)
    found = by_position(order, range(order.rows[0].epoch_count // 6))
    tokens = [target for position in sorted(found) for target in targets_of(found[position][-1])]
    assert tokens == sorted(tokens)


def test_order_is_that_of_format_1():
    """If this fails, every run's samples have changed: raise the formats' number instead of these."""
    documents = [np.arange(1, 4 + 5 * n % 17) for n in range(9)]
    shards = [FakeShard(ordinal % 2, documents[ordinal % 5 :], ["train"] * (9 - ordinal % 5)) for ordinal in range(16)]
    order = make_order(FakeManifest(shards, [range(10), range(10, 16)], ["a", "b"]), weights=[2.0, 1.0])
    slots = order.slots(100)
    assert [tuple(map(int, row)) for row in rows_of(slots)] == [
        (601, 0, 5, 24, 0),
        (604, 1, 3, 16, 0),
        (602, 0, 5, 58, 1),
        (605, 1, 3, 41, 1),
        (600, 1, 3, 45, 1),
        (603, 1, 3, 64, 2),
    ]
    assert order.spans(slots, 1) == [(13, 2, 7, 4), (13, 1, 0, 4)]


def test_order_of_samples_is_that_of_format_1():
    """As above, for samples that are fed as they are: windows by bytes, runs, lanes by unit."""
    documents = [np.arange(1, 4 + 5 * n % 17) for n in range(9)]
    shards = [FakeShard(ordinal % 2, documents[ordinal % 5 :], ["train"] * (9 - ordinal % 5)) for ordinal in range(40)]
    order = make_order(FakeManifest(shards, [range(16), range(16, 40)], ["a", "b"]), weights=[2.0, 1.0], **SAMPLES)
    slots = order.slots(100)
    assert [tuple(map(int, row)) for row in rows_of(slots)] == [
        (601, 0, 3, 59, 0),
        (600, 1, 2, 30, 0),
        (604, 1, 2, 31, 0),
        (602, 0, 3, 133, 1),
        (603, 1, 2, 103, 1),
        (605, 1, 2, 104, 1),
    ]
    assert order.spans(slots, 1) == [(33, 3, 0, 0)]


@settings(max_examples=40, deadline=None)
@given(
    corpus_seed=st.integers(0, 100),
    feeding=st.sampled_from([PACKED, SAMPLES]),
    ready=st.integers(1, 3),
    global_batch=st.integers(1, 40),
    weights=st.sampled_from([[1.0, 1.0], [3.0, 1.0], [1.0, 0.0]]),
)
def test_while_segments_are_to_come_every_step_is_the_right_one_or_not_prepared(
    corpus_seed, feeding, ready, global_batch, weights
):
    manifest = make_corpus(corpus_seed, shards_by_segment=((9, 2), (4, 4), (5, 1), (7, 7)), most_documents=12)
    options = {"global_batch": global_batch, "weights": weights, **feeding}
    whole, early = make_order(manifest, **options), make_order(manifest.prepared(ready), **options)
    assert (whole.is_whole, early.is_whole) == (True, False)
    for step in range(60):
        if whole.slots(step).unit.max() < ready:
            assert batch_of(early, step) == batch_of(whole, step)
            assert not early.epochs(early.slots(step)).any()
        else:
            with pytest.raises(NotPrepared, match=f"segment {ready} of 4"):
                early.slots(step)


def test_what_only_the_whole_tells_is_not_prepared_while_segments_are_to_come():
    early = make_order(make_corpus(3).prepared(2))
    for ask in (
        lambda: early.epoch_steps(0),
        lambda: early.rows[0].index_after(1),
        lambda: early.unit(0, 2),
        lambda: early.rows[0].locate(np.array([10**6])),
    ):
        with pytest.raises(NotPrepared, match="source 'source0'"):
            ask()


def test_a_source_may_have_nothing_in_the_segments_that_are_prepared():
    manifest = make_corpus(5, shards_by_segment=((6, 0), (6, 6)), most_documents=12)
    with pytest.raises(NotPrepared):
        make_order(manifest.prepared(1), global_batch=12).slots(0)
    alone = make_order(manifest.prepared(1), global_batch=3, weights=[1.0, 0.0])
    assert batch_of(alone, 0) == batch_of(make_order(manifest, global_batch=3, weights=[1.0, 0.0]), 0)
