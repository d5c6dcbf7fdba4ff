"""Candidates of one band, and of all bands together."""

import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.prepare.near.match import Limits, Matches, keys_of_sketch, match_band, sort_keys
from orchestrator.prepare.near.merge import Candidates, join_crowds, merge_matches, split_pairs

ALL_PAIRS = Limits(10**9, 10**9, 8192)
NOTHING = np.empty(0, np.uint64)


def match(keys: list[int], own: int, *, among_own: bool = True, limits: Limits = ALL_PAIRS, cut: int = 0) -> Matches:
    """Of documents whose sketches all agree; earlier ones in two parts, cut at `cut`."""
    line = np.array(keys, np.uint32)
    earlier = [sort_keys(line[:cut], 0), sort_keys(line[cut:own], cut)]
    sketches = np.ones((len(keys), 10), np.uint8)
    return match_band(sort_keys(line[own:], own), earlier, own, sketches, 0.8, among_own=among_own, limits=limits)


def list_pairs(pairs: NDArray[np.uint64]) -> list[tuple[int, int]]:
    return sorted(zip(*(side.tolist() for side in split_pairs(pairs)), strict=True))


def pack(*pairs: tuple[int, int]) -> NDArray[np.uint64]:
    return np.array(sorted(later << 32 | earlier for later, earlier in pairs), np.uint64)


def test_keys_are_sorted_with_their_numbers_and_without_the_exempt() -> None:
    packed = sort_keys(np.array([5, 0, 3, 5], np.uint32), 10)
    assert packed.tolist() == [3 << 32 | 12, 5 << 32 | 10, 5 << 32 | 13]
    assert sort_keys(np.array([2**32 - 1], np.uint32), 2**32 - 1).tolist() == [2**64 - 1]


def test_the_number_line_has_an_end() -> None:
    with pytest.raises(ValueError, match="beyond the number line"):
        sort_keys(np.ones(2, np.uint32), 2**32 - 1)


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_own_documents_meet_earlier_ones_and_each_other_but_earlier_ones_do_not(cut: int) -> None:
    found = match([7, 8, 7, 7, 9, 8, 7], 3, cut=cut)
    assert list_pairs(found.pairs) == [(3, 0), (3, 2), (5, 1), (6, 0), (6, 2), (6, 3)]
    assert (found.candidates, found.estimated) == (6, 6)


def test_across_groups_only_own_and_earlier_ones_meet() -> None:
    found = match([7, 8, 7, 7, 9, 8, 7], 3, among_own=False)
    assert list_pairs(found.pairs) == [(3, 0), (3, 2), (5, 1), (6, 0), (6, 2)]


def test_key_zero_meets_nothing() -> None:
    assert list_pairs(match([0, 0, 1, 0, 1], 1).pairs) == [(4, 2)]


def test_no_own_documents_have_no_candidates() -> None:
    assert len(match([1, 1, 1], 3).pairs) == 0


def test_of_pairs_with_an_equal_key_those_with_unlike_sketches_go() -> None:
    keys, sketches = sort_keys(np.ones(3, np.uint32), 0), np.ones((3, 300), np.uint8)
    sketches[1, :90] = 2  # 210 of 300 equal: 0.70
    sketches[2, 209:] = 3  # 209 equal to the first; with the second fewer
    found = match_band(keys, [], 0, sketches, 0.8, limits=ALL_PAIRS)
    assert list_pairs(found.pairs) == [(1, 0)]
    assert (found.candidates, found.estimated) == (3, 3)


def test_all_pairs_of_many_groups_are_found() -> None:
    keys = np.random.default_rng(0).integers(1, 500, 5000).tolist()
    found = match(keys, 2000, cut=700)
    expected = {(i, j) for i in range(2000, 5000) for j in range(i) if keys[i] == keys[j]}
    assert len(found.pairs) == len(expected)
    assert set(list_pairs(found.pairs)) == expected


def test_a_group_with_too_many_pairs_is_a_crowd() -> None:
    keys = [4, 4, 6, 6, *[5] * 6, 4]
    many = match(keys, 2, limits=Limits(estimates=2, pairs=10**9))  # 15 pairs of 6, and 2 of 3
    assert many.crowded.tolist() == [4, 5, 6, 7, 8, 9]
    assert many.crowd_ends.tolist() == [0, 6]
    assert list_pairs(many.pairs) == [(3, 2), (10, 0), (10, 1)]
    assert many.estimated == 3
    alike = match(keys, 2, limits=Limits(estimates=10**9, pairs=2))
    assert (alike.crowded.tolist(), list_pairs(alike.pairs)) == (many.crowded.tolist(), list_pairs(many.pairs))
    assert match(keys, 2, limits=Limits(3, 3)).crowd_ends.tolist() == [0]


def test_many_crowds_are_all_named() -> None:
    found = match(list(range(1, 41)) * 3, 0, limits=Limits(0, 0))
    members = [
        found.crowded[begin:end].tolist()
        for begin, end in zip(found.crowd_ends[:-1], found.crowd_ends[1:], strict=True)
    ]
    assert members == [[i, i + 40, i + 80] for i in range(40)]


def test_keys_of_a_sketch_are_equal_where_its_bytes_are() -> None:
    sketch = np.array([[1, 2, 3, 4, 5, 6, 9], [1, 2, 3, 4, 5, 7, 9], [0, 0, 0, 255, 255, 255, 0], [0] * 7], np.uint8)
    keys = keys_of_sketch(sketch, 2, 3)
    assert keys.dtype == np.uint32
    assert keys[0, 0] == keys[1, 0]
    assert keys[0, 1] != keys[1, 1]
    assert keys[2].tolist() == [1, 2**24]
    assert keys[3].tolist() == [0, 0]
    assert len(set(keys_of_sketch(np.array([[1, 2, 1], [2, 1, 1], [1, 1, 2]], np.uint8), 1, 3).ravel().tolist())) == 3


@pytest.mark.parametrize(("bands", "rows"), [(3, 3), (2, 4)])
def test_bands_that_do_not_fit_a_sketch_or_a_key_are_refused(bands: int, rows: int) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        keys_of_sketch(np.ones((1, 8), np.uint8), bands, rows)


def crowds_of(*crowds: list[int], pairs: NDArray[np.uint64] = NOTHING) -> Matches:
    ends = np.cumsum([0, *map(len, crowds)], dtype=np.int64)
    return Matches(pairs, np.array([i for crowd in crowds for i in crowd], np.uint32), ends, 0, 0)


def test_bands_are_merged_in_any_order() -> None:
    bands = [
        crowds_of([1, 5, 9], [2, 6], pairs=pack((4, 3), (9, 2))),
        crowds_of([6, 8, 20], pairs=pack((4, 3), (9, 1))),
        crowds_of([5, 30], [40, 41], pairs=pack((8, 2), (7, 5), (50, 49))),
    ]
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        merged = merge_matches([bands[i] for i in order])
        assert [crowd.tolist() for crowd in merged.crowds] == [[1, 5, 9, 30], [2, 6, 8, 20], [40, 41]]
        assert list_pairs(merged.pairs) == [(4, 3), (7, 5), (9, 2), (50, 49)]
        assert merged.pairs.tolist() == sorted(merged.pairs.tolist())


def test_no_bands_and_no_crowds_merge_to_nothing() -> None:
    assert len(merge_matches([]).pairs) == 0
    assert merge_matches([crowds_of()]).crowds == []


def test_documents_tied_to_a_crowd_are_decided_with_it_and_others_apart() -> None:
    candidates = Candidates(NOTHING, [np.array([1, 5, 9]), np.array([2, 6]), np.array([40, 41])])
    alike = pack((7, 5), (8, 7), (12, 6), (12, 9), (15, 14))
    crowds, apart = join_crowds(candidates, alike)
    assert [crowd.tolist() for crowd in crowds] == [[1, 2, 5, 6, 7, 8, 9, 12], [40, 41]]
    assert list_pairs(alike[apart]) == [(15, 14)]


def test_without_crowds_all_pairs_are_apart() -> None:
    alike = pack((7, 5), (8, 7))
    crowds, apart = join_crowds(Candidates(alike, []), alike)
    assert crowds == []
    assert apart.all()
