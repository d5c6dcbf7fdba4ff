"""What ranks fed is compared with the run's definition: packed tokens, from documents in memory."""

import numpy as np
import pytest

from orchestrator.core.words import Span, World
from orchestrator.data.feeding.packed import PackedBatches
from orchestrator.data.feeding.read import TokenReader
from orchestrator.data.ordering.ledger import Sums
from orchestrator.data.ordering.skips import Skips
from orchestrator.data.proof.audit import Prepared, recompute
from orchestrator.data.proof.difference import (
    Difference,
    WrongPosition,
    compare_ledger,
    expected_spans,
    find_wrong_position,
    readable_keys,
    tell_span,
)
from tests.fakes.corpus import make_corpus, make_order

STEPS = range(25)
SKIPS = Skips(voided=frozenset({4}), holes=frozenset({(7, 44)}))


def feed(manifest, steps=STEPS, *, reader=None, size=3, skips=SKIPS, **options):
    """The true rows of ledger.jsonl."""
    batches = PackedBatches(make_order(manifest, **options), reader or TokenReader(manifest, "train"))
    rows = []
    for step in steps:
        parts = [batches.make(step, World.flat(rank, size), skips) for rank in range(size)]
        sums = sum((part.sums for part in parts), Sums())
        count = sum(part.count for part in parts)
        rows.append({"step": step, "order_digest": sums.order_hex, "set_digest": sums.set_hex, "count": count})
    return rows


def audit(manifest, rows, steps=STEPS, skips=SKIPS, **options):
    order, prepared = make_order(manifest, **options), Prepared(manifest, "train", packed=True)
    return compare_ledger(rows, recompute(order, prepared, skips, steps))


class ChangingReader(TokenReader):
    """Reads something else in place of one span."""

    def __init__(self, manifest, wrong, instead):
        super().__init__(manifest, "train")
        self._wrong, self._instead = wrong, instead

    def fill(self, out, at, span):
        is_wrong = np.all([column == value for column, value in zip(span, self._wrong, strict=True)], axis=0)
        assert not is_wrong.any() or self._instead.count == self._wrong.count
        changed = [np.where(is_wrong, value, column) for column, value in zip(span, self._instead, strict=True)]
        return super().fill(out, at, changed)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_what_ranks_fed_is_what_the_definition_says(size):
    manifest = make_corpus(1)
    assert audit(manifest, feed(manifest, size=size)) is None


def test_feeding_one_wrong_sample_is_found_at_its_step():
    manifest = make_corpus(1)
    order = make_order(manifest)
    wrong, instead = (order.spans(order.slots(11), i)[0] for i in (2, 3))
    reader = ChangingReader(manifest, wrong, instead._replace(first=0, count=wrong.count))
    found = audit(manifest, feed(manifest, reader=reader))
    assert (found.step, found.what) == (11, "order_digest")


def test_feeding_a_slice_that_is_off_by_one_is_found():
    manifest = make_corpus(1)
    order = make_order(manifest)
    wrong = next(span for i in range(6) for span in order.spans(order.slots(11), i) if span.first)
    reader = ChangingReader(manifest, wrong, wrong._replace(first=wrong.first - 1))
    assert audit(manifest, feed(manifest, reader=reader)).step == 11


@pytest.mark.parametrize("change", [{"seed": 6}, {"seq_len": 8}, {"global_batch": 7}, {"weights": [1.0, 2.0]}])
def test_another_definition_is_found(change):
    manifest = make_corpus(1)
    assert audit(manifest, feed(manifest), **change) is not None


def test_a_missing_row_a_wrong_count_and_forgotten_skips_are_told_apart():
    manifest = make_corpus(1)
    rows = feed(manifest)
    assert audit(manifest, rows[:9]) == Difference(9, "order_digest", rows[9]["order_digest"], None)
    assert audit(manifest, rows[:9] + rows[10:]) == Difference(9, "order_digest", rows[9]["order_digest"], None)
    assert "step 9: order_digest must be" in str(audit(manifest, rows[:9]))
    assert "there is no row" in str(audit(manifest, rows[:9]))
    miscounted = [{**row, "count": 5} if row["step"] == 3 else row for row in rows]
    assert str(audit(manifest, miscounted)) == "step 3: count must be 6, the ledger says 5"
    assert audit(manifest, rows, skips=Skips()).step == 4
    assert audit(manifest, rows, skips=Skips(voided=frozenset({4}))).step == 7


def test_two_steps_that_fed_each_others_samples_are_found():
    manifest = make_corpus(1)
    rows = feed(manifest)
    digests = [{name: row[name] for name in ("order_digest", "set_digest")} for row in rows]
    rows[11] |= digests[12]
    rows[12] |= digests[11]
    assert audit(manifest, rows).step == 11


def test_the_first_wrong_position_is_named_with_what_belongs_there():
    manifest = make_corpus(1)
    order = make_order(manifest)
    must, positions = expected_spans(order, SKIPS, 11), order.slots(11).position
    assert find_wrong_position(positions, must, must) is None
    fed = [list(spans) for spans in must]
    fed[1], fed[4] = fed[4], fed[1]
    slot = min((1, 4), key=lambda n: positions[n])
    assert find_wrong_position(positions, must, fed) == WrongPosition(positions[slot], must[slot][0], fed[slot][0])
    cut = [*must[:3], must[3][:-1], *must[4:]]
    assert find_wrong_position(positions, must, cut) == WrongPosition(positions[3], must[3][-1], None)
    assert "it is left out" in find_wrong_position(positions, must, cut).tell(manifest)


def test_what_is_skipped_is_expected_to_be_left_out():
    manifest = make_corpus(1)
    order = make_order(manifest)
    must = expected_spans(order, SKIPS, 7)
    (hole,) = np.flatnonzero(order.slots(7).position == 44)
    assert [slot for slot, spans in enumerate(must) if not spans] == [hole]
    assert not any(expected_spans(order, SKIPS, 4))
    fed = [order.spans(order.slots(7), i) for i in range(6)]
    found = find_wrong_position(order.slots(7).position, must, fed)
    assert found == WrongPosition(44, None, fed[hole][0])


def test_spans_are_told_as_people_know_them():
    manifest = make_corpus(1)
    name = manifest.shard_name(0)
    assert tell_span(manifest, Span(0, 1, 3, 9)) == f"{name}/k001 tokens 3 to 12"
    assert tell_span(manifest, Span(0, 1, 0, 0)) == f"{name}/k001"
    assert tell_span(manifest, None) == "left out"


def test_keys_are_readable_and_in_batch_order():
    manifest = make_corpus(1)
    order = make_order(manifest)
    slots = order.slots(2)
    spans = [order.spans(slots, i) for i in range(6)]
    found = readable_keys(manifest, spans)
    flat = [span for held in spans for span in held]
    assert [entry[1:] for entry in found] == [[span.first, span.count] for span in flat]
    assert [entry[0] for entry in found] == [f"{manifest.shard_name(span.ordinal)}/k{span.place:03d}" for span in flat]
    assert readable_keys(manifest, []) == []
    assert readable_keys(manifest, [[Span(0, 1, 0, 5)]])[0][0].endswith("/00000.tar/k001")
