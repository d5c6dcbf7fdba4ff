from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.data.feeding.batch import RankBatch, ReadFigures
from orchestrator.data.ordering.ledger import Sums
from orchestrator.data.ordering.order import rank_slice
from orchestrator.data.ordering.unit import SpanTable
from orchestrator.train.slices import cut_micro_batches, micro_batches_needed

SEQ_LEN = 3


def make_batch(slots: range) -> RankBatch:
    tokens = np.arange(slots.start, slots.stop)[:, None].repeat(SEQ_LEN + 1, axis=1)
    weights = np.ones((len(slots), SEQ_LEN), np.float32)
    fields = {"tokens": tokens, "weights": weights}
    fed = SpanTable(*np.empty((len(SpanTable._fields), 0), np.int64))
    return RankBatch(
        step=0, fields=fields, weight=0.0, slots=slots, fed=fed, sums=Sums(), count=0, figures=ReadFigures()
    )


@given(global_batch=st.integers(1, 40), data_size=st.integers(1, 9), micro_batch=st.integers(1, 8))
def test_every_sample_is_fed_once_in_order_in_as_many_micro_batches_on_every_rank(global_batch, data_size, micro_batch):
    number = micro_batches_needed(global_batch, data_size, micro_batch)
    fed = []
    for rank in range(data_size):
        micros = list(cut_micro_batches(make_batch(rank_slice(global_batch, rank, data_size)), number))
        assert len(micros) == number
        for micro in micros:
            tokens, weights = micro.fields["tokens"], micro.fields["weights"]
            assert 1 <= len(tokens) <= micro_batch
            assert weights.shape == (len(tokens), SEQ_LEN)
            if weights.any():
                fed += tokens[:, 0].tolist()
                assert tokens[0, 0] == micro.slot
    assert fed == list(range(global_batch))


def test_weightless_sample_is_a_real_one_where_there_is_one():
    *_, last = cut_micro_batches(make_batch(range(7, 8)), 2)
    first, *_ = cut_micro_batches(make_batch(range(7, 8)), 2)
    weightless = first if not first.fields["weights"].any() else last
    assert weightless.fields["tokens"].tolist() == [[7] * (SEQ_LEN + 1)]
    (nothing,) = cut_micro_batches(make_batch(range(7, 7)), 1)
    assert nothing.fields["tokens"].tolist() == [[0] * (SEQ_LEN + 1)]
    assert not nothing.fields["weights"].any()


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_micro_batches_overlap_by_the_next_sample_and_the_last_has_the_one_beyond(number):
    batch = make_batch(range(7, 10))
    beyond = {name: array[:1].copy() for name, array in make_batch(range(10, 11)).fields.items()}
    cut = [micro.fields for micro in cut_micro_batches(replace(batch, beyond=beyond), number)]
    fed = [fields["tokens"][:, 0].tolist() for fields in cut if fields["weights"].any()]
    assert [row for rows in fed for row in rows[:-1]] == [7, 8, 9]
    assert all(rows == list(range(rows[0], rows[0] + len(rows))) for rows in fed)
    weightless = [fields for fields in cut if not fields["weights"].any()]
    assert len(weightless) == max(0, number - 3)
    assert all(len(fields["tokens"]) == 2 for fields in weightless)


def test_a_rank_without_samples_has_two_weightless_ones():
    empty = make_batch(range(7, 7))
    (micro,) = cut_micro_batches(replace(empty, beyond=empty.fields), 1)
    assert micro.fields["tokens"].shape[0] == 2
    assert not micro.fields["weights"].any()
