"""The ledger made again many steps at a time equals the one that is made span by span."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config.data import Phase
from orchestrator.core.errors import DataError
from orchestrator.core.words import Span
from orchestrator.data.feeding.read import TokenReader
from orchestrator.data.ordering.ledger import Sums, checksum, digest, join_checksums
from orchestrator.data.ordering.row import Shuffling
from orchestrator.data.ordering.skips import Skips
from orchestrator.data.proof import audit
from orchestrator.data.proof.audit import FedUnits, Prepared, prove_epochs, recompute, unit_set
from orchestrator.data.proof.difference import compare_ledger
from tests.fakes.corpus import FakeManifest, make_corpus, make_order
from tests.fakes.slow_order import slow_batches


class Samples(FakeManifest):
    """Documents that are fed as they are: their checksums are in the manifest."""

    def checksums_at(self, ordinals, places, split):
        for ordinal, place in zip(ordinals.tolist(), places.tolist(), strict=True):
            assert place in self.places(ordinal, split)
        spans = zip(ordinals.tolist(), places.tolist(), strict=True)
        return join_checksums([checksum(self.shards[ordinal].documents[place]) for ordinal, place in spans])


def make_samples(*arguments, **options):
    return Samples(**vars(make_corpus(*arguments, **options)))


def sum_span(manifest, span):
    """The checksum of a span's tokens, or of the whole document."""
    document = manifest.shards[span.ordinal].documents[span.place]
    return checksum(document[span.first : span.first + span.count] if span.count else document)


def recompute_slowly(manifest, order, skips, steps):
    for step in steps:
        slots = order.slots(step)
        positions, starts, spans = [], [], []
        count = 0
        for i, skip in enumerate(skips.of(step, slots.position)):
            at = 0
            for span in [] if skip else order.spans(slots, i):
                positions.append(int(slots.position[i]))
                starts.append(at)
                spans.append(span)
                at += span.count
            count += not skip
        yield step, digest(positions, starts, spans, [sum_span(manifest, span) for span in spans]), count


phases = st.lists(
    st.builds(
        dict,
        from_step=st.integers(0, 30),
        global_batch=st.none() | st.integers(1, 12),
        seq_len=st.none() | st.integers(1, 20),
        weights=st.none() | st.sampled_from([{"source0": 1.0, "source1": 3.0}, {"source0": 0.0, "source1": 1.0}]),
    ),
    max_size=3,
    unique_by=lambda phase: phase["from_step"],
).map(lambda found: [Phase(**phase) for phase in sorted(found, key=lambda phase: phase["from_step"])])


@settings(max_examples=25, deadline=None)
@given(
    corpus_seed=st.integers(0, 10_000),
    phases=phases,
    global_batch=st.integers(1, 12),
    seq_len=st.none() | st.integers(1, 40),
    window_samples=st.integers(1, 30),
    lanes=st.integers(1, 6),
    enabled=st.booleans(),
    voided=st.frozensets(st.integers(0, 40), max_size=3),
    holes=st.frozensets(st.tuples(st.integers(0, 40), st.integers(0, 60)), max_size=6),
    missing=st.sets(st.integers(0, 44), max_size=3),
    at_once=st.sampled_from([1, 7, 10_000]),
)
def test_many_steps_at_once_give_what_single_steps_give(
    corpus_seed, phases, global_batch, seq_len, window_samples, lanes, enabled, voided, holes, missing, at_once
):
    manifest = make_samples(corpus_seed, shards_by_segment=((3, 2), (2, 0), (0, 2)), most_documents=5)
    if seq_len is None:
        phases = [phase.model_copy(update={"seq_len": None}) for phase in phases]
    try:
        order = make_order(
            manifest, phases=phases, global_batch=global_batch, seq_len=seq_len,
            shuffling=Shuffling(window_samples=window_samples, lanes=lanes, enabled=enabled),
        )  # fmt: skip
    except DataError:
        return  # a source happened to be empty
    prepared = Prepared(manifest, "train", packed=seq_len is not None)
    skips, steps = Skips(voided, holes), set(range(45)) - missing
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "POSITIONS_AT_ONCE", at_once)
        fast = list(recompute(order, prepared, skips, sorted(steps), fed := FedUnits()))
    assert fast == list(recompute_slowly(manifest, order, skips, sorted(steps)))
    assert sum(fed.rows.values()) == sum(order.batch_size(step) for step in steps)


def test_the_sums_are_those_of_explicit_lists_of_tokens():
    """Against an order that shares no arithmetic with ours."""
    manifest = make_corpus(3, shards_by_segment=((4,), (3,)))
    order = make_order(manifest, global_batch=5)
    num_steps = 3 * order.rows[0].epoch_count // 5  # into later epochs
    slow = slow_batches(
        manifest, seed=5, quotas=(65_536,), global_batch=5, seq_len=7, window_samples=12, lanes=3,
    )  # fmt: skip
    for step, sums, _ in recompute(order, packed(manifest), Skips(), range(num_steps)):
        fed = [piece for slot in next(slow) for piece in cut_by_document(manifest, slot)]
        assert sums == digest(*map(list, zip(*fed, strict=True))), step


def packed(manifest):
    return Prepared(manifest, "train", packed=True)


def cut_by_document(manifest, slot):
    """(position, start, span, checksum) of a slot of the slow order."""
    begun = [n for n, token in enumerate(slot.tokens) if n == 0 or token[:2] != slot.tokens[n - 1][:2]]
    for start, stop in zip(begun, [*begun[1:], len(slot.tokens)], strict=True):
        ordinal, place, first = slot.tokens[start]
        tokens = manifest.shards[ordinal].documents[place][first : first + stop - start]
        yield slot.position, start, Span(ordinal, place, first, stop - start), checksum(tokens)


@pytest.mark.parametrize("gap_tokens", [0, 3, 10_000])
@pytest.mark.parametrize("block_tokens", [5, 10_000])
def test_checksums_of_many_spans_are_those_of_each(monkeypatch, gap_tokens, block_tokens):
    monkeypatch.setattr("orchestrator.data.feeding.read.GAP_TOKENS", gap_tokens)
    monkeypatch.setattr("orchestrator.data.feeding.read.BLOCK_TOKENS", block_tokens)
    manifest = make_corpus(3)
    reader, rng = TokenReader(manifest, "train"), np.random.default_rng(0)
    spans = []
    for ordinal in range(len(manifest.shards)):
        for place, length in zip(manifest.places(ordinal, "train"), manifest.lengths(ordinal, "train"), strict=True):
            for _ in range(3):
                first = int(rng.integers(0, length + 1))
                spans.append(Span(ordinal, int(place), first, int(rng.integers(0, length - first + 1))))
    rng.shuffle(spans)
    found = reader.checksums(*np.array(spans, np.int64).T)
    read = [(manifest.shards[span.ordinal].documents, span) for span in (Span(*map(int, span)) for span in spans)]
    each = join_checksums(
        [checksum(documents[span.place][span.first : span.first + span.count]) for documents, span in read]
    )
    assert np.array_equal(found, each)


def test_among_many_spans_the_unusable_one_is_named():
    manifest = make_corpus(3)
    ordinal = int(manifest.kept("train").argmax())
    places = manifest.places(ordinal, "train")
    columns = np.array([[ordinal, places[0], 0, 1], [ordinal, places[-1], 2, 10_000]]).T
    with pytest.raises(DataError, match=rf"sample {places[-1]} has \d+ of the 10000 tokens from token 2 on"):
        TokenReader(manifest, "train").checksums(*columns)


def test_the_first_difference_is_named_inside_a_block_of_steps():
    manifest = make_corpus(1)
    order, prepared = make_order(manifest), packed(manifest)
    rows = [
        {"step": step, "order_digest": sums.order_hex, "set_digest": sums.set_hex, "count": count}
        for step, sums, count in recompute(order, prepared, Skips(), range(30))
    ]
    rows[17]["set_digest"] = rows[23]["set_digest"] = f"{1:032x}"
    found = compare_ledger(rows, recompute(order, prepared, Skips(), range(30)))
    assert (found.step, found.what, found.found) == (17, "set_digest", f"{1:032x}")


def prove(manifest, skips=Skips(), **options):  # noqa: B008 - frozen
    """The proofs of a run of 60 steps, as (source, epoch, rows, holds), and what they were made of."""
    order, fed = make_order(manifest, **options), FedUnits()
    prepared = Prepared(manifest, "train", packed=options.get("seq_len", 7) is not None)
    list(recompute(order, prepared, skips, range(60), fed))
    proofs = [(one.source, one.epoch, one.rows, one.holds) for one in prove_epochs(order, prepared, fed)]
    return proofs, order, fed, prepared


@pytest.mark.parametrize("seq_len", [7, None])
def test_every_epoch_that_was_whole_is_proven_skipped_ones_included(seq_len):
    manifest = make_samples(2, shards_by_segment=((3,), (2,)))
    found, order, _, _ = prove(manifest, Skips(frozenset({3}), frozenset({(5, 31)})), seq_len=seq_len)
    epochs = [(0, 0, order.rows[0].epoch_count, True)]
    later = order.unit(0, 2).count
    epochs += [(0, n, later, True) for n in range(1, (360 - order.rows[0].epoch_count) // later + 1)]
    assert len(found) > 2
    assert found == epochs


def test_an_epoch_cut_off_by_another_sequence_length_is_not_told():
    manifest = make_corpus(2, shards_by_segment=((3,), (2,)))
    phase = Phase(from_step=2, seq_len=9)
    found, order, fed, _ = prove(manifest, phases=[phase], seq_len=3)
    assert sum(order.unit(0, unit).count for unit in (0, 1)) > 12
    assert 0 not in [epoch for _, epoch, *_ in found]
    assert found
    assert all(holds for *_, holds in found)
    assert fed.rows[0, 0] > 0


@pytest.mark.parametrize("seq_len", [7, None])
def test_a_slot_taken_twice_instead_of_another_breaks_its_epoch(seq_len):
    manifest = make_samples(2, shards_by_segment=((3,), (2,)))
    _, order, fed, prepared = prove(manifest, seq_len=seq_len)
    twice, instead = recompute_slots(order, prepared, 0), recompute_slots(order, prepared, 1)
    fed.sets[0, 0] += Sums(0, twice.set - instead.set)
    assert [one.holds for one in prove_epochs(order, prepared, fed)][:2] == [False, True]


def recompute_slots(order, prepared, slot):
    """The sums of one slot of step 0."""
    others = frozenset((0, int(position)) for n, position in enumerate(order.slots(0).position) if n != slot)
    ((_, sums, _),) = recompute(order, prepared, Skips(holes=others), [0])
    return sums


@pytest.mark.parametrize("seq_len", [3, None])
def test_an_epochs_set_follows_from_what_is_kept_alone(seq_len):
    manifest = make_samples(5, shards_by_segment=((6,), (4,)))
    order, prepared = (
        make_order(manifest, global_batch=1, seq_len=seq_len),
        Prepared(manifest, "train", packed=seq_len is not None),
    )
    fed = sum((sums for _, sums, _ in recompute(order, prepared, Skips(), range(order.rows[0].epoch_count))), Sums())
    assert fed.set == (unit_set(order.unit(0, 0), prepared) + unit_set(order.unit(0, 1), prepared)).set
    if seq_len is None:
        kept = [(o, int(p)) for o in range(len(manifest.shards)) for p in manifest.places(o, "train")]
        spans = [Span(*one, 0, 0) for one in kept]
        none = [0] * len(spans)
        assert fed.set == digest(none, none, spans, [sum_span(manifest, span) for span in spans]).set


def test_steps_of_different_phases_are_not_taken_together():
    manifest = make_corpus(3, shards_by_segment=((4,), (3,)))
    phases = [Phase(from_step=4, global_batch=7), Phase(from_step=9, seq_len=3)]
    order = make_order(manifest, phases=phases, global_batch=5)
    found = list(recompute(order, packed(manifest), Skips(), range(14)))
    assert found == list(recompute_slowly(manifest, order, Skips(), range(14)))
