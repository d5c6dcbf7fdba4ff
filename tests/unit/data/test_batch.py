import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.words import World
from orchestrator.data.feeding.packed import PackedBatches, digest_rows
from orchestrator.data.feeding.read import TokenReader
from orchestrator.data.ordering.ledger import Sums
from orchestrator.data.ordering.order import ValidationOrder
from orchestrator.data.ordering.skips import Skips
from tests.fakes.corpus import END_ID, make_corpus, make_order

ALONE = World.flat(0, 1)


def fill_world(manifest, order, step, size, skips=None):
    batches = PackedBatches(order, TokenReader(manifest, "train"))
    return [batches.make(step, World.flat(rank, size), skips or Skips()) for rank in range(size)]


def pick_rows(fed, rows):
    """The spans of some rows, numbered anew unless a row keeps its place."""
    found = [np.flatnonzero(fed.row == row) for row in rows]
    number = np.repeat(np.arange(len(rows)) if len(rows) > 1 else rows, [part.size for part in found])
    return type(fed)(number, *(column[np.concatenate(found)] for column in fed[1:]))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 50), st.integers(0, 300), st.integers(1, 12), st.integers(1, 15))
def test_any_world_feeds_the_same_rows_and_sums(corpus_seed, step, global_batch, size):
    manifest = make_corpus(corpus_seed, most_documents=12)
    order = make_order(manifest, global_batch=global_batch)
    (whole,) = fill_world(manifest, order, step, 1)
    parts = fill_world(manifest, order, step, size)
    assert [slot for part in parts for slot in part.slots] == list(range(global_batch))
    assert [row for part in parts for row in part.spans] == whole.spans
    for name, values in whole.fields.items():
        joined = np.concatenate([part.fields[name] for part in parts])
        assert joined.dtype == values.dtype
        assert np.array_equal(joined, values)
    assert sum((part.sums for part in parts), Sums()) == whole.sums
    assert sum(part.count for part in parts) == whole.count == global_batch
    assert sum(part.weight for part in parts) == whole.weight
    assert sum(part.figures.read_bytes for part in parts) == whole.figures.read_bytes


def test_rows_are_the_documents_tokens_and_padding_has_weight_zero():
    manifest = make_corpus(2)
    order = make_order(manifest)
    short = 0
    for step in range(60):
        (batch,) = fill_world(manifest, order, step, 1)
        assert batch.fields["tokens"].dtype == np.int64
        assert batch.fields["weights"].dtype == np.float32
        for tokens, weights, spans in zip(batch.fields["tokens"], batch.fields["weights"], batch.spans, strict=True):
            real = [manifest.shards[o].documents[place][first : first + count] for o, place, first, count in spans]
            size = sum(map(len, real))
            assert tokens.tolist() == [*np.concatenate(real), *[END_ID] * (8 - size)]
            assert weights.tolist() == [1] * (size - 1) + [0] * (8 - size)
            short += size < 8
        assert batch.weight == batch.fields["weights"].sum()
        assert batch.figures.read_bytes == 2 * sum(span.count for spans in batch.spans for span in spans)
    assert short


def test_a_rank_without_slots_gets_arrays_without_rows():
    manifest = make_corpus(2)
    batch = fill_world(manifest, make_order(manifest, global_batch=2), 0, 3)[0]
    assert batch.fields["tokens"].shape == (0, 8)
    assert batch.fields["weights"].shape == (0, 7)
    assert (batch.weight, batch.count, batch.sums, batch.spans) == (0, 0, Sums(), [])


def test_a_voided_step_has_no_weight_and_no_part_in_the_ledger_and_shifts_nothing():
    manifest = make_corpus(2)
    order, skips = make_order(manifest), Skips(voided=frozenset({3}))
    (void,), (plain,) = fill_world(manifest, order, 3, 1, skips), fill_world(manifest, order, 3, 1)
    assert (void.weight, void.count, void.sums, void.figures.read_bytes) == (0, 0, Sums(), 0)
    assert void.slots == plain.slots
    assert void.fields["tokens"].shape == plain.fields["tokens"].shape
    assert fill_world(manifest, order, 4, 1, skips)[0].sums == fill_world(manifest, order, 4, 1)[0].sums


def test_a_batch_that_is_voided_late_is_as_if_it_had_been_from_the_beginning():
    manifest = make_corpus(2)
    order = make_order(manifest)
    early = fill_world(manifest, order, 3, 2, Skips(voided=frozenset({3})))
    for late, known in zip(fill_world(manifest, order, 3, 2), early, strict=True):
        assert late.count
        void = late.voided()
        assert (void.weight, void.count, void.sums, void.spans) == (known.weight, known.count, known.sums, known.spans)
        assert (void.step, void.slots) == (known.step, known.slots)


def test_a_hole_has_weight_zero_and_is_left_out_of_the_ledger():
    manifest = make_corpus(2)
    order = make_order(manifest)
    (plain,) = fill_world(manifest, order, 2, 1)
    slots = order.slots(2)
    holes = Skips(holes=frozenset({(2, int(slots.position[4]))}))
    parts = fill_world(manifest, order, 2, 3, holes)
    tokens = np.concatenate([part.fields["tokens"] for part in parts])
    weights = np.concatenate([part.fields["weights"] for part in parts])
    others = [0, 1, 2, 3, 5]
    assert not weights[4].any()
    assert np.array_equal(weights[others], plain.fields["weights"][others])
    assert np.array_equal(tokens[others], plain.fields["tokens"][others])
    hole = digest_rows(plain.fields["tokens"], slots.position, pick_rows(plain.fed, [4]))
    assert sum((part.sums for part in parts), hole) == plain.sums
    assert sum(part.count for part in parts) == 5


def test_one_wrong_token_in_the_array_changes_both_sums():
    manifest = make_corpus(2)
    order = make_order(manifest)
    (batch,) = fill_world(manifest, order, 0, 1)
    positions = order.slots(0).position
    for row, spans in enumerate(batch.spans):
        for column in range(sum(span.count for span in spans)):
            tokens = batch.fields["tokens"].copy()
            tokens[row, column] += 1
            wrong = digest_rows(tokens, positions, batch.fed)
            assert wrong.order != batch.sums.order
            assert wrong.set != batch.sums.set


def test_swapped_rows_change_the_sums():
    manifest = make_corpus(2)
    order = make_order(manifest)
    (batch,) = fill_world(manifest, order, 0, 1)
    swapped = [1, 0, *range(2, 6)]
    positions = order.slots(0).position
    rows_only = digest_rows(batch.fields["tokens"][swapped], positions, batch.fed)
    whole = digest_rows(batch.fields["tokens"][swapped], positions, pick_rows(batch.fed, swapped))
    assert rows_only.set != batch.sums.set
    assert whole.order != batch.sums.order
    assert whole.set == batch.sums.set


def test_validation_batches_fill_from_their_split_and_the_last_is_smaller():
    manifest = make_corpus(3, train_share=0.4)
    order = ValidationOrder(manifest, "validation", global_batch=5, seq_len=7)
    maker = PackedBatches(order, TokenReader(manifest, "validation"))
    batches = [maker.make(step, ALONE, Skips()) for step in range(order.num_batches)]
    assert sum(batch.weight for batch in batches) == manifest.totals("validation").sum() - 2
    assert len(batches[-1].spans) == order.batch_size(order.num_batches - 1) < 5


def test_plain_samples_are_no_token_batches():
    manifest = make_corpus(2)
    with pytest.raises(ValueError, match="seq_len"):
        fill_world(manifest, make_order(manifest, seq_len=None), 0, 1)


def test_documents_are_told_apart_in_every_row():
    manifest = make_corpus(2)
    order = make_order(manifest)
    batches = PackedBatches(order, TokenReader(manifest, "train"), documents_apart=True)
    several = padded = 0
    for step in range(60):
        batch = batches.make(step, ALONE, Skips(voided=frozenset({7})))
        for documents, positions, spans in zip(
            batch.fields["documents"], batch.fields["positions"], batch.spans, strict=True
        ):
            told = [(n, at) for n, span in enumerate(spans) for at in range(span.count)]
            told += [(-1, 0)] * (8 - len(told))
            assert list(zip(documents.tolist(), positions.tolist(), strict=True)) == told[:7]
            several += len(spans) > 1
            padded += told[6] == (-1, 0)
    assert documents.dtype == positions.dtype == np.int32
    assert several
    assert padded


def test_telling_documents_apart_changes_nothing_else():
    manifest = make_corpus(2)
    order = make_order(manifest)
    apart = PackedBatches(order, TokenReader(manifest, "train"), documents_apart=True)
    together = PackedBatches(order, TokenReader(manifest, "train"))
    one, other = apart.make(0, ALONE, Skips()), together.make(0, ALONE, Skips())
    assert one.sums == other.sums
    assert set(one.fields) - set(other.fields) == {"documents", "positions"}
    assert all(np.array_equal(one.fields[name], values) for name, values in other.fields.items())
    assert apart.size_bytes(0, ALONE) == sum(values.nbytes for values in one.fields.values()) - 6 * 8
