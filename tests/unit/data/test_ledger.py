import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.words import Span
from orchestrator.data.ordering.ledger import Sums, checksum, digest

sums = st.builds(Sums, st.integers(0, 2**128 - 1), st.integers(0, 2**128 - 1))
small = st.integers(0, 2**40)
spans = st.builds(Span, small, small, small, small)
fed = st.lists(st.tuples(small, small, spans, st.binary(min_size=16, max_size=16)), max_size=20)


def digest_of(rows):
    return digest(*map(list, zip(*rows, strict=True))) if rows else digest([], [], [], [])


@given(st.lists(sums, min_size=1, max_size=30))
def test_limbs_added_as_floats_are_the_sum(parts):
    limbs = np.sum([np.array(part.to_limbs(), np.float64) for part in parts], axis=0)
    assert Sums.from_limbs(limbs.tolist()) == sum(parts, Sums())


def test_limbs_of_a_million_ranks_add_exactly():
    most = Sums(2**128 - 1, 2**128 - 1)
    added = np.array(most.to_limbs(), np.float64) * 2**20
    assert Sums.from_limbs(added) == Sums(-(2**20) % 2**128, -(2**20) % 2**128)


def test_other_than_eight_limbs_are_refused():
    with pytest.raises(ValueError, match="8 limbs, not 7"):
        Sums.from_limbs([0] * 7)


@given(fed, st.randoms())
def test_digests_add_up_whatever_the_slicing(rows, random):
    whole = digest_of(rows)
    random.shuffle(rows)
    cut = random.randint(0, len(rows))
    assert digest_of(rows[:cut]) + digest_of(rows[cut:]) == whole


@given(fed.filter(any), st.integers(0, 4), st.data())
def test_one_changed_identity_changes_both_sums(rows, column, data):
    position, start, span, content = rows[0]
    if column < 4:
        changed = (position, start, Span(*(part + (n == column) for n, part in enumerate(span))), content)
    else:
        at = data.draw(st.integers(0, 127))
        flipped = (int.from_bytes(content, "big") ^ 1 << at).to_bytes(16, "big")
        changed = (position, start, span, flipped)
    before, after = digest_of(rows), digest_of([changed, *rows[1:]])
    assert before.order != after.order
    assert before.set != after.set


@given(fed.filter(any), st.integers(0, 1))
def test_another_place_in_the_run_changes_the_order_sum_only(rows, column):
    position, start, span, content = rows[0]
    moved = (position + (column == 0), start + (column == 1), span, content)
    before, after = digest_of(rows), digest_of([moved, *rows[1:]])
    assert before.order != after.order
    assert before.set == after.set


def test_feeding_a_span_twice_instead_of_another_is_seen():
    one, other = (7, 0, Span(1, 2, 0, 4), b"a" * 16), (8, 0, Span(1, 3, 0, 4), b"b" * 16)
    assert digest_of([one, other]).set != digest_of([one, one]).set


def test_checksum_does_not_depend_on_how_tokens_are_stored():
    tokens = np.array([1, 2, 65_535])
    assert len({checksum(tokens.astype(kind)) for kind in ("<u2", ">u2", "<i8", "<u4")}) == 1
    assert checksum(np.arange(10)[::3]) == checksum(np.array([0, 3, 6, 9]))
    assert checksum(tokens) != checksum(tokens[:2])


def test_sums_are_shown_as_32_digits():
    assert (Sums(10, 2**127).order_hex, Sums(10, 2**127).set_hex) == (f"{'a':0>32}", f"{'8':0<32}")


def test_digests_are_those_of_format_1():
    """If this fails, ledgers of earlier runs no longer verify: raise the formats' number instead of these."""
    checksums = [checksum(np.arange(4)), checksum(np.arange(4) + 9)]
    found = digest([3, 3], [0, 4], [Span(1, 2, 3, 4), Span(5, 6, 0, 4)], checksums)
    assert found.order_hex == "dd44e2a52f470e261a16985612f124d2"
    assert found.set_hex == "449aa070531a924c076f0534026f4bde"
