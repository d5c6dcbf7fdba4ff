from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.errors import DataError
from orchestrator.core.keyed import key
from orchestrator.data.ordering.unit import LayoutCache, Unit
from tests.fakes.corpus import make_corpus

SHARDS = st.integers(0, 12)


def make_unit(manifest, shards=None, *, seed=1, layouts=None, **changes):
    shards = np.arange(len(manifest.shards)) if shards is None else np.asarray(shards, np.int64)
    layouts = layouts or LayoutCache()
    options = {"seq_len": 7, "window": 60, "lanes": 3, **changes}
    return Unit(manifest, "train", shards, key(seed), layouts, **options)


def walk(unit):
    index, lane = unit.index(np.arange(unit.count))
    return index.tolist(), lane.tolist()


def tokens_of(spans):
    return [(span.ordinal, span.place, n) for span in spans for n in range(span.first, span.first + span.count)]


units = st.builds(
    lambda corpus_seed, shards, seq_len, window, lanes, shuffle: make_unit(
        make_corpus(corpus_seed, shards_by_segment=((shards,),)),
        seq_len=seq_len, window=window, lanes=lanes, shuffle=shuffle,
    ),
    st.integers(0, 1000), SHARDS, st.integers(1, 50), st.integers(1, 400), st.integers(1, 9), st.booleans(),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(units)
def test_a_unit_gives_every_sequence_once(unit):
    assert sorted(walk(unit)[0]) == list(range(unit.count))


@settings(max_examples=150, deadline=None)
@given(units)
def test_every_token_but_the_first_is_a_target_once(unit):
    sequences = [tokens_of(unit.spans(i)) for i in range(unit.count)]
    targets = Counter(token for sequence in sequences for token in sequence[1:])
    assert len(targets) == targets.total() == max(0, unit.total - 1)
    assert all(len(sequence) == unit.seq_len + 1 for sequence in sequences[:-1])
    assert all(one[-1] == next_one[0] for one, next_one in pairwise(sequences))


@settings(max_examples=150, deadline=None)
@given(units)
def test_lanes_differ_by_at_most_one_and_are_taken_in_turn(unit):
    _, lane = walk(unit)
    sizes = np.bincount(lane, minlength=unit.lanes)
    assert sizes.max(initial=0) - sizes.min(initial=unit.count) <= 1
    assert lane == [turn % unit.lanes for turn in range(unit.count)]


@settings(max_examples=150, deadline=None)
@given(units)
def test_sequences_stay_in_the_window_where_they_begin(unit):
    lanes_in_row = sorted(zip(*walk(unit), range(unit.count), strict=True), key=lambda found: (found[1], found[2]))
    windows = np.searchsorted(unit.window_ends, [index * unit.seq_len for index, *_ in lanes_in_row], side="right")
    assert np.array_equal(windows, np.sort(windows))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1000), SHARDS, st.integers(1, 30), st.integers(1, 9), st.booleans())
def test_plain_samples_come_once_each(corpus_seed, shards, window, lanes, shuffle):
    manifest = make_corpus(corpus_seed, shards_by_segment=((shards,),))
    unit = make_unit(manifest, seq_len=None, window=window, lanes=lanes, shuffle=shuffle)
    spans = [unit.spans(i) for i in walk(unit)[0]]
    kept = [(ordinal, int(place)) for ordinal in range(shards) for place in manifest.places(ordinal, "train")]
    assert all(len(own) == 1 and own[0][2:] == (0, 0) for own in spans)
    assert sorted(own[0][:2] for own in spans) == kept


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1000), SHARDS, st.integers(1, 30), st.integers(1, 2000), st.integers(1, 9), st.integers(1, 5))
def test_runs_stay_together_inside_their_window(corpus_seed, shards, window, window_bytes, run_len, lanes):
    manifest = make_corpus(corpus_seed, shards_by_segment=((shards,),))
    options = {"seq_len": None, "window": window, "window_bytes": window_bytes, "run_len": run_len}
    unit = make_unit(manifest, **options, lanes=1)
    order, _ = walk(unit)
    assert sorted(order) == list(range(unit.count))
    assert sorted(walk(make_unit(manifest, **options, lanes=lanes))[0]) == sorted(order)
    for begin, end in pairwise([0, *unit.window_ends.tolist()]):
        inside = order[begin:end]
        assert sorted(inside) == list(range(begin, end))
        for first in range(begin, end, run_len):  # each run, also the shorter one of what is left
            run = list(range(first, min(first + run_len, end)))
            at = inside.index(first)
            assert inside[at : at + len(run)] == run


def test_what_fills_no_run_is_not_always_last():
    manifest = make_corpus(3, shards_by_segment=((200,),))
    unit = make_unit(manifest, seq_len=None, window=25, run_len=7, lanes=1)
    order, _ = walk(unit)
    windows = [(begin, end) for begin, end in pairwise([0, *unit.window_ends.tolist()]) if (end - begin) % 7]
    assert len(windows) > 10
    last = [order.index(end - 1) == end - 1 for _, end in windows]
    assert 0 < sum(last) < len(last)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), SHARDS, st.integers(1, 30), st.integers(1, 2000))
def test_a_window_ends_with_the_shard_that_fills_it_in_samples_or_bytes(corpus_seed, shards, window, window_bytes):
    manifest = make_corpus(corpus_seed, shards_by_segment=((shards,),))
    unit = make_unit(manifest, seq_len=None, window=window, window_bytes=window_bytes)
    samples = bytes_ = 0
    ends = []
    for ordinal in unit.shards:
        before = samples // window, bytes_ // window_bytes
        samples += manifest.kept("train")[ordinal]
        bytes_ += manifest.sizes("train")[ordinal]
        if before != (samples // window, bytes_ // window_bytes):
            ends.append(samples)
    if samples not in (0, *ends):
        ends.append(samples)
    assert unit.window_ends.tolist() == ends


@settings(max_examples=50, deadline=None)
@given(units)
def test_windows_are_whole_shards_and_cover_the_unit(unit):
    assert unit.window_ends.max(initial=0) == unit.total
    for window in range(unit.num_windows):
        shards = set(unit.layout(window).shards.tolist())
        others = [set(unit.layout(other).shards.tolist()) for other in range(window)]
        assert all(not shards & other for other in others)


def test_without_shuffle_a_unit_reads_in_shard_order():
    unit = make_unit(make_corpus(3), shuffle=False, lanes=1)
    tokens = [token for i in walk(unit)[0] for token in tokens_of(unit.spans(i))[1:]]
    assert walk(unit)[0] == list(range(unit.count))
    assert tokens == sorted(tokens)


def test_another_key_gives_another_order_of_shards_documents_and_sequences():
    one, other = (make_unit(make_corpus(3), seed=seed, window=10_000, lanes=1) for seed in (1, 2))
    assert one.shards.tolist() != other.shards.tolist()
    assert one.layout(0).place.tolist() != other.layout(0).place.tolist()
    assert walk(one)[0] != walk(other)[0]


@pytest.mark.parametrize("tokens", [[], [1], [2], [8], [9]])
def test_units_of_few_tokens(tokens):
    manifest = make_corpus(0, shards_by_segment=((1,),))
    manifest.shards[0].documents = [np.ones(size, np.int64) for size in tokens]
    manifest.shards[0].splits = ["train"] * len(tokens)
    unit = make_unit(manifest)
    targets = max(0, sum(tokens) - 1)
    assert unit.count == -(-targets // 7)
    assert sum(len(tokens_of(unit.spans(i))) - 1 for i in range(unit.count)) == targets


def test_a_unit_without_shards_is_empty():
    unit = make_unit(make_corpus(0), shards=[])
    assert (unit.count, unit.num_windows, walk(unit)) == (0, 0, ([], []))


def test_documents_that_contradict_the_totals_are_named():
    manifest = make_corpus(2)
    unit = make_unit(manifest)
    for shard in manifest.shards:
        shard.documents = [np.append(document, 1) for document in shard.documents]
    with pytest.raises(DataError, match="their totals say"):
        unit.spans(0)


def test_layouts_are_dropped_when_they_take_too_much_memory_and_made_again_alike():
    manifest = make_corpus(5)
    free, tight = make_unit(manifest), make_unit(manifest, layouts=LayoutCache(limit_bytes=1))
    assert free.num_windows > 2
    for _ in range(2):
        assert [free.spans(i) for i in range(free.count)] == [tight.spans(i) for i in range(tight.count)]
