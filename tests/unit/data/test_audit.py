import pytest

from orchestrator.core.words import Span, World
from orchestrator.data.audit import Difference, compare_ledger, epoch_set, readable_keys, recompute, unit_set
from orchestrator.data.batch import fill_batch
from orchestrator.data.ledger import Sums
from orchestrator.data.read import TokenReader
from orchestrator.data.skips import Skips
from tests.fakes.corpus import make_corpus, make_order

STEPS = range(25)
SKIPS = Skips(voided=frozenset({4}), holes=frozenset({(7, 44)}))


def feed(manifest, steps=STEPS, *, reader=None, size=3, skips=SKIPS, **options):
    """ledger.jsonl of a run."""
    order, reader = make_order(manifest, **options), reader or TokenReader(manifest, "train")
    rows = [{"format": 1}]
    for step in steps:
        parts = [fill_batch(order, reader, step, World.flat(rank, size), skips) for rank in range(size)]
        sums = sum((part.sums for part in parts), Sums())
        count = sum(part.count for part in parts)
        rows.append({"step": step, "order_digest": sums.order_hex, "set_digest": sums.set_hex, "count": count})
    return rows


def audit(manifest, rows, steps=STEPS, skips=SKIPS, **options):
    order, reader = make_order(manifest, **options), TokenReader(manifest, "train")
    return compare_ledger(rows, recompute(order, reader, skips, steps))


@pytest.mark.parametrize("size", [1, 2, 7])
def test_what_ranks_fed_is_what_the_definition_says(size):
    manifest = make_corpus(1)
    assert audit(manifest, feed(manifest, size=size)) is None


def test_feeding_one_wrong_sample_is_found_at_its_step():
    manifest = make_corpus(1)
    order = make_order(manifest)
    wrong, instead = (order.spans(order.slots(11), i)[0] for i in (2, 3))

    class WrongReader(TokenReader):
        def read(self, span):
            return super().read(instead._replace(count=span.count, first=0) if span == wrong else span)

    found = audit(manifest, feed(manifest, reader=WrongReader(manifest, "train")))
    assert (found.step, found.what) == (11, "order_digest")


def test_feeding_a_slice_that_is_off_by_one_is_found():
    manifest = make_corpus(1)
    order = make_order(manifest)
    wrong = next(span for i in range(6) for span in order.spans(order.slots(11), i) if span.first)

    class ShiftedReader(TokenReader):
        def read(self, span):
            return super().read(span._replace(first=span.first - 1) if span == wrong else span)

    assert audit(manifest, feed(manifest, reader=ShiftedReader(manifest, "train"))).step == 11


@pytest.mark.parametrize("change", [{"seed": 6}, {"seq_len": 8}, {"global_batch": 7}, {"weights": [1.0, 2.0]}])
def test_another_definition_is_found(change):
    manifest = make_corpus(1)
    assert audit(manifest, feed(manifest), **change) is not None


def test_a_missing_row_a_wrong_count_and_forgotten_skips_are_told_apart():
    manifest = make_corpus(1)
    rows = feed(manifest)
    assert audit(manifest, rows[:10]) == Difference(9, "order_digest", rows[10]["order_digest"], None)
    assert "step 9: order_digest must be" in str(audit(manifest, rows[:10]))
    assert "there is no row" in str(audit(manifest, rows[:10]))
    miscounted = [{**row, "count": 5} if row.get("step") == 3 else row for row in rows]
    assert str(audit(manifest, miscounted)) == "step 3: count must be 6, the ledger says 5"
    assert audit(manifest, rows, skips=Skips()).step == 4
    assert audit(manifest, rows, skips=Skips(voided=frozenset({4}))).step == 7


def test_the_last_row_of_a_step_is_the_truth():
    manifest = make_corpus(1)
    rows = feed(manifest)
    replayed = [*rows[:8], {**rows[8], "count": 0}, *rows[8:]]
    assert audit(manifest, replayed) is None
    assert audit(manifest, [*replayed, {**rows[8], "count": 0}]).step == 7


@pytest.mark.parametrize("corpus_seed", range(4))
def test_an_epochs_set_follows_from_the_documents_alone(corpus_seed):
    manifest = make_corpus(corpus_seed, shards_by_segment=((6,), (4,)))
    order, reader = make_order(manifest, global_batch=1), TokenReader(manifest, "train")
    steps = range(order.rows[0].epoch_count)
    fed = sum((sums for _, sums, _ in recompute(order, reader, Skips(), steps)), Sums())
    assert fed.set == epoch_set(order, reader, 0).set
    assert fed.set == (unit_set(order.unit(0, 0), reader) + unit_set(order.unit(0, 1), reader)).set
    one_short = sum((sums for _, sums, _ in recompute(order, reader, Skips(), steps[:-1])), Sums())
    assert one_short.set != fed.set


def test_keys_are_readable_and_in_batch_order():
    manifest = make_corpus(1)
    order = make_order(manifest)
    slots = order.slots(2)
    spans = {i: order.spans(slots, i) for i in reversed(range(6))}
    found = readable_keys(manifest, spans)
    flat = [span for i in range(6) for span in spans[i]]
    assert [entry[1:] for entry in found] == [[span.first, span.count] for span in flat]
    assert [entry[0] for entry in found] == [f"{manifest.shard_name(span.ordinal)}/k{span.place:03d}" for span in flat]
    assert readable_keys(manifest, {}) == []
    assert readable_keys(manifest, {0: [Span(0, 1, 0, 5)]})[0][0].endswith("/00000.tar/k001")
