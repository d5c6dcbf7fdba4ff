"""Verdicts on near duplicates against the plain rule, applied to every two documents."""

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from orchestrator.prepare.near.decide import (
    find_surely_kept,
    follow_pairs,
    gather_sets,
    judge,
    score_pairs,
    slice_pairs,
)
from orchestrator.prepare.near.match import Limits
from orchestrator.prepare.near.merge import Candidates
from tests.fakes.alike import Page, judge_every_two, load_from, make_template, pack_sets, sign, similarity_of

BANDS, ROWS = 8, 3
ALL_PAIRS, ALL_CROWDS = Limits(10**9, 10**9, 8192), Limits(0, 0, 8192)
MIXED = Limits(2, 1, 3)


def as_page(*shingles: int) -> Page:
    return np.array(sorted(set(shingles)), np.uint64)


@st.composite
def related_pages(draw: st.DrawFn) -> list[Page]:
    """Pages that copy an earlier one and change a few shingles of it, so that many lie about the threshold."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    pages = [rng.integers(0, 60, rng.integers(1, 30)).astype(np.uint64)]
    for _ in range(draw(st.integers(0, 40))):
        page = pages[rng.integers(len(pages))].copy()
        kind = rng.integers(5)
        if kind == 0:
            page = rng.integers(0, 60, rng.integers(0, 30)).astype(np.uint64)
        elif kind < 4 and len(page):
            changed = rng.integers(0, len(page), rng.integers(1, 4))
            page[changed] = rng.integers(0, 2**63, len(changed), dtype=np.uint64)
            page = page[: len(page) - rng.integers(0, 3)]
        pages.append(np.unique(page))
    return [np.unique(page) for page in pages]


@settings(max_examples=80, deadline=None)
@given(
    related_pages(),
    st.sampled_from([0.5, 0.7, 0.8, 0.9, 1.0]),
    st.sampled_from([ALL_PAIRS, ALL_CROWDS, MIXED, Limits()]),
    st.booleans(),
    st.floats(0, 1),
)
def test_verdicts_are_those_of_comparing_every_two(
    pages: list[Page], threshold: float, limits: Limits, among_own: bool, share_earlier: float
) -> None:
    keys, sketches = sign(pages, BANDS, ROWS)
    own = round(share_earlier * len(pages))
    verdicts, _ = judge(keys, sketches, own, threshold, load_from(pages), among_own=among_own, limits=limits)
    partners, scores = judge_every_two(pages, keys, sketches, own, threshold, among_own=among_own)
    assert verdicts.partner.tolist() == partners
    assert verdicts.score.tolist() == scores


@settings(max_examples=40, deadline=None)
@given(related_pages(), st.lists(st.floats(0, 1), max_size=4), st.sampled_from([ALL_CROWDS, MIXED, Limits()]))
def test_cutting_the_line_into_segments_changes_no_verdict(
    pages: list[Page], cuts: list[float], limits: Limits
) -> None:
    keys, sketches = sign(pages, BANDS, ROWS)
    whole, _ = judge(keys, sketches, 0, 0.7, load_from(pages))
    partners: list[int] = []
    kept: NDArray[np.int64] = np.empty(0, np.int64)
    bounds = [0, *sorted(round(cut * len(pages)) for cut in cuts), len(pages)]
    for begin, end in pairwise(bounds):
        line = np.concatenate([kept, np.arange(begin, end)])
        rows = [pages[i] for i in line]
        verdicts, _ = judge(keys[line], sketches[line], len(kept), 0.7, load_from(rows), limits=limits)
        partners += [int(line[k]) if k >= 0 else -1 for k in verdicts.partner]
        kept = np.concatenate([kept, np.arange(begin, end)[verdicts.partner < 0]])
    assert partners == whole.partner.tolist()


@pytest.mark.parametrize("limits", [ALL_PAIRS, ALL_CROWDS])
def test_a_document_like_only_a_dropped_one_stays(limits: Limits) -> None:
    chain = [as_page(*range(begin, begin + 100)) for begin in (0, 8, 16)]
    keys, sketches = np.ones((3, 2), np.uint32), np.ones((3, 20), np.uint8)
    verdicts, _ = judge(keys, sketches, 0, 0.8, load_from(chain), limits=limits)
    assert similarity_of(chain[1], chain[2]) >= 0.8 > similarity_of(chain[0], chain[2])
    assert verdicts.partner.tolist() == [-1, 0, -1]


@pytest.mark.parametrize("limits", [ALL_PAIRS, ALL_CROWDS])
def test_the_earliest_partner_is_named_not_the_most_similar(limits: Limits) -> None:
    pages = [as_page(*range(100)), as_page(*range(14, 114)), as_page(*range(6, 106)), as_page(*range(10, 110))]
    keys, sketches = np.ones((4, 1), np.uint32), np.ones((4, 20), np.uint8)
    verdicts, _ = judge(keys, sketches, 2, 0.8, load_from(pages), limits=limits)
    assert similarity_of(pages[1], pages[3]) > similarity_of(pages[0], pages[3]) >= 0.8
    assert verdicts.partner.tolist() == [0, 0]
    assert verdicts.score[1] == similarity_of(pages[0], pages[3])


@pytest.mark.parametrize("limits", [ALL_PAIRS, ALL_CROWDS])
def test_alike_documents_without_an_equal_key_or_with_sketches_far_apart_are_no_candidates(limits: Limits) -> None:
    pages = [as_page(*range(50))] * 4
    keys = np.array([[1, 2], [3, 4], [1, 5], [0, 0]], np.uint32)
    sketches = np.array([[7] * 20, [7] * 20, [7] * 13 + [8] * 7, [7] * 20], np.uint8)
    verdicts, _ = judge(keys, sketches, 0, 0.8, load_from(pages), limits=limits)
    assert verdicts.partner.tolist() == [-1, -1, -1, -1]
    sketches[2, 13] = 7  # 14 of 20 equal: 0.10 below the threshold
    verdicts, _ = judge(keys, sketches, 0, 0.8, load_from(pages), limits=limits)
    assert verdicts.partner.tolist() == [-1, -1, 0, -1]


def test_every_dropped_page_has_a_kept_earlier_partner_at_or_above_the_threshold() -> None:
    rng = np.random.default_rng(1)
    pages = [page for own in (5, 40, 54) for page in make_template(rng, 300, 392, own - 5, own + 5)]
    rng.shuffle(pages)
    verdicts, cost = judge(*sign(pages, 18, 7), 0, 0.8, load_from(pages))
    dropped = np.flatnonzero(verdicts.partner >= 0)
    assert len(dropped) > 500
    assert cost.crowd_members > 800
    for i in dropped:
        partner = verdicts.partner[i]
        assert partner < i
        assert verdicts.partner[partner] == -1
        assert verdicts.score[i] == similarity_of(pages[i], pages[partner]) >= 0.8


def test_clusters_of_a_hundred_leave_one_each() -> None:
    rng = np.random.default_rng(2)
    pages = [page for _ in range(20) for page in make_template(rng, 100, 400, 10, 20)]
    verdicts, _ = judge(*sign(pages, 18, 7), 0, 0.8, load_from(pages))
    assert np.flatnonzero(verdicts.partner < 0).tolist() == list(range(0, 2000, 100))


def test_thousands_of_pages_just_below_the_threshold_cost_hardly_an_exact_check() -> None:
    pages = make_template(np.random.default_rng(3), 3000, 392, 54, 54)
    keys, sketches = sign(pages, 18, 7)
    load = load_from(pages)
    began = time.perf_counter()
    verdicts, cost = judge(keys, sketches, 0, 0.8, load)
    assert time.perf_counter() - began < 5  # comparing every two takes longer
    assert (verdicts.partner == -1).all()
    assert cost.checks < 3000


def test_pages_of_varied_sizes_about_the_threshold_are_judged_as_by_comparing_every_two() -> None:
    pages = make_template(np.random.default_rng(4), 300, 196, 0, 56)
    keys, sketches = sign(pages, 18, 7)
    partners, _ = judge_every_two(pages, keys, sketches, 0, 0.8)
    verdicts, cost = judge(keys, sketches, 0, 0.8, load_from(pages))
    assert 30 < sum(partner >= 0 for partner in partners) < 290
    assert cost.crowds == 1
    assert verdicts.partner.tolist() == partners


def test_equal_documents_leave_the_first_at_one_check_each() -> None:
    page = np.arange(100, dtype=np.uint64)
    keys, sketches = np.ones((20_000, 3), np.uint32), np.ones((20_000, 21), np.uint8)
    verdicts, cost = judge(keys, sketches, 0, 0.8, load_from([page] * 20_000))
    assert verdicts.partner.tolist() == [-1] + [0] * 19_999
    assert cost.checks == 19_999


def test_documents_that_take_no_part_stay_and_are_never_loaded() -> None:
    pages = [as_page(1, 2, 3), as_page(), as_page(1, 2, 3), as_page()]
    asked: list[int] = []

    def load(numbers: NDArray[np.int64]):
        asked.extend(numbers.tolist())
        return pack_sets([pages[number] for number in numbers])

    verdicts, _ = judge(*sign(pages, BANDS, ROWS), 0, 0.8, load)
    assert verdicts.partner.tolist() == [-1, -1, 0, -1]
    assert sorted(asked) == [0, 2]


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_compare_is_no_trouble(count: int) -> None:
    verdicts, cost = judge(np.ones((count, 3), np.uint32), np.ones((count, 9), np.uint8), 0, 0.8, load_from([]))
    assert verdicts.partner.tolist() == [-1] * count
    assert cost.checks == 0


def test_slices_hold_whole_rows_and_few_documents() -> None:
    rows = [5, 5, 5, 6, 7, 7, 9, 9, 9, 9]
    pairs = np.array([later << 32 | earlier for earlier, later in enumerate(rows)], np.uint64)
    pairs.sort()
    slices = list(slice_pairs(pairs, 6))
    assert [(part.start, part.stop) for part in slices] == [(0, 4), (4, 6), (6, 10)]
    assert [(part.start, part.stop) for part in slice_pairs(pairs, 1)] == [(0, 3), (3, 4), (4, 6), (6, 10)]
    assert list(slice_pairs(pairs[:0], 6)) == []


def test_surely_kept_are_those_of_earlier_segments_and_those_that_nothing_could_drop() -> None:
    pairs = np.array([later << 32 | earlier for later, earlier in ((8, 1), (8, 4), (9, 5), (9, 6), (9, 8))], np.uint64)
    candidates = Candidates(pairs, [np.array([1, 6, 20])])
    assert find_surely_kept(candidates, 3).tolist() == [True, True, True, False, False]


def test_pairs_after_one_with_a_surely_kept_document_are_not_checked() -> None:
    pages = [as_page(*range(10))] * 4
    pairs = np.array([3 << 32, 3 << 32 | 1, 3 << 32 | 2], np.uint64)
    numbers = np.arange(4)
    doubtful, checks = score_pairs(pairs, np.zeros(3, bool), numbers, pack_sets(pages), 0.8)
    assert (doubtful.tolist(), checks) == ([1, 1, 1], 3)
    sure, checks = score_pairs(pairs, np.array([False, True, True]), numbers, pack_sets(pages), 0.8)
    assert (sure.tolist(), checks) == ([1, 1, -1], 2)


def test_a_document_goes_once_for_the_first_that_stays() -> None:
    pairs = ((4, 2), (6, 4), (8, 4), (8, 6), (8, 7))
    alike = np.array([later << 32 | earlier for later, earlier in pairs], np.uint64)
    later, earlier, scores = follow_pairs(alike, np.array([0.9, 0.8, 0.85, 0.95, 0.99]))
    assert later.tolist() == [4, 8]
    assert earlier.tolist() == [2, 6]
    assert scores.tolist() == [0.9, 0.95]


def test_many_sets_are_gathered_in_parts_and_come_out_the_same(tmp_path) -> None:
    rng = np.random.default_rng(5)
    pages = [np.unique(rng.integers(0, 2**63, rng.integers(0, 20), dtype=np.uint64)) for _ in range(50)]
    sizes: list[int] = []

    def load(numbers: NDArray[np.int64]):
        sizes.append(len(numbers))
        return pack_sets([pages[number] for number in numbers])

    numbers = np.arange(0, 50, 2)
    whole = pack_sets(pages[::2])
    with gather_sets(numbers, load, 7, tmp_path) as sets:
        assert sets.flat.tolist() == whole.flat.tolist()
        assert sets.ends.tolist() == whole.ends.tolist()
    assert sizes == [7, 7, 7, 4]
