"""Crowds: what every two documents would say, without comparing every two."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.prepare.near.crowd import decide_crowd
from tests.fakes.alike import Page, judge_every_two, make_template, pack_sets


def decide_candidates(pages: list[Page], own: int, threshold: float, *, among_own: bool = True):
    """Of documents that are all candidates of each other."""
    keys, sketches = np.ones((len(pages), 1), np.uint32), np.ones((len(pages), 8), np.uint8)
    verdicts = decide_crowd(
        np.arange(len(pages)), pack_sets(pages), keys, sketches, own, threshold, among_own=among_own
    )
    partners, scores = judge_every_two(pages, keys, sketches, own, threshold, among_own=among_own)
    return verdicts, [-1] * own + partners, [0.0] * own + scores


@st.composite
def pages_about_a_threshold(draw: st.DrawFn, threshold: float) -> list[Page]:
    """Families of pages that keep most of a frame of many sizes, whose pieces other families have too."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    pool = rng.integers(0, 2**64, 300, dtype=np.uint64)
    pages = []
    for _ in range(draw(st.integers(1, 4))):
        frame = rng.choice(pool, rng.integers(5, 120), replace=False)
        for _ in range(draw(st.integers(1, 20))):
            kept = rng.random(len(frame)) < threshold + (1 - threshold) * rng.random()
            more = rng.integers(0, 2**64, rng.integers(0, max(2, len(frame) // 4)), dtype=np.uint64)
            pages.append(np.unique(np.concatenate([frame[kept], more, pool[:1]])))
    rng.shuffle(pages)
    return pages


@settings(max_examples=80, deadline=None)
@given(st.data(), st.sampled_from([0.3, 0.5, 2 / 3, 0.7, 0.8, 0.9, 1.0]), st.booleans(), st.floats(0, 0.7))
def test_verdicts_are_those_of_comparing_every_two(
    data: st.DataObject, threshold: float, among_own: bool, share_earlier: float
) -> None:
    pages = data.draw(pages_about_a_threshold(threshold))
    own = round(share_earlier * len(pages))
    verdicts, partners, scores = decide_candidates(pages, own, threshold, among_own=among_own)
    assert verdicts.partner.tolist() == partners
    assert verdicts.score.tolist() == scores


@pytest.mark.parametrize("numerator", range(1, 20))
def test_similarity_of_exactly_the_threshold_is_enough(numerator: int) -> None:
    threshold = numerator / 20
    common, rest = np.arange(numerator, dtype=np.uint64), np.arange(100, 120 - numerator, dtype=np.uint64)
    for extra in range(len(rest) + 1):  # however the others are shared out between the two
        pages = [np.concatenate([common, rest[:extra]]), np.concatenate([common, rest[extra:]])]
        verdicts, partners, _ = decide_candidates(pages, 0, threshold)
        assert partners == verdicts.partner.tolist() == [-1, 0]
        assert verdicts.score[1] == threshold


def test_members_are_named_by_their_numbers() -> None:
    page = np.arange(50, dtype=np.uint64)
    numbers = np.array([3, 17, 40])
    verdicts = decide_crowd(
        numbers, pack_sets([page] * 3), np.ones((3, 1), np.uint32), np.ones((3, 4), np.uint8), 0, 0.8
    )
    assert verdicts.partner.tolist() == [-1, 3, 3]


def test_those_known_to_be_kept_are_not_judged_again() -> None:
    page = np.arange(50, dtype=np.uint64)
    verdicts, _, _ = decide_candidates([page] * 4, 2, 0.8)
    assert verdicts.partner.tolist() == [-1, -1, 0, 0]
    assert verdicts.checks == 2


def test_own_documents_are_no_partners_where_only_earlier_ones_count() -> None:
    rng = np.random.default_rng(0)
    page, other = rng.integers(0, 2**63, (2, 50), dtype=np.uint64)
    verdicts, _, _ = decide_candidates([page, other, other, page], 1, 0.5, among_own=False)
    assert verdicts.partner.tolist() == [-1, -1, -1, 0]


def test_documents_that_are_no_candidates_of_each_other_both_stay() -> None:
    page = np.arange(50, dtype=np.uint64)
    keys = np.array([[1, 2], [1, 3], [4, 3], [0, 5], [0, 6]], np.uint32)
    sketches = np.ones((5, 10), np.uint8)
    sketches[1, :4] = 2  # with the first and the third 6 of 10 are equal
    verdicts = decide_crowd(np.arange(5), pack_sets([page] * 5), keys, sketches, 0, 0.8)
    assert verdicts.partner.tolist() == [-1] * 5


def test_small_pages_after_large_ones_find_the_first_of_thousands_at_one_check() -> None:
    rng = np.random.default_rng(1)
    large = make_template(rng, 2000, 400, 60, 60)
    small = make_template(rng, 1, 400, 0, 0)
    for page in large:
        page[:400] = small[0][:400]
    pages = [*large, *small * 2000]
    verdicts, _, _ = decide_candidates_quickly(pages, 0.85)
    assert verdicts.partner.tolist() == [-1] * 2000 + [0] * 2000
    assert verdicts.checks == 2000


def decide_candidates_quickly(pages: list[Page], threshold: float):
    keys, sketches = np.ones((len(pages), 1), np.uint32), np.ones((len(pages), 8), np.uint8)
    return decide_crowd(np.arange(len(pages)), pack_sets(pages), keys, sketches, 0, threshold), keys, sketches


@pytest.mark.parametrize("own_shingles", [(54, 54), (99, 140)])
def test_pages_below_the_threshold_are_not_compared(own_shingles: tuple[int, int]) -> None:
    pages = make_template(np.random.default_rng(2), 3000, 392, *own_shingles)
    verdicts, _, _ = decide_candidates_quickly(pages, 0.8)
    assert (verdicts.partner == -1).all()
    assert verdicts.checks == 0


def test_a_shingle_that_all_have_leads_to_no_page_of_another_template() -> None:
    rng = np.random.default_rng(3)
    templates = [make_template(rng, 10, 200, 5, 10) for _ in range(300)]
    shared = np.arange(20, dtype=np.uint64)
    pages = [np.concatenate([shared, page]) for template in templates for page in template]
    verdicts, _, _ = decide_candidates_quickly(pages, 0.8)
    assert np.flatnonzero(verdicts.partner < 0).tolist() == list(range(0, 3000, 10))
    assert verdicts.checks == 2700
