import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.core.errors import ConfigError
from orchestrator.core.keyed import key
from orchestrator.data.ordering.mixing import BLOCK, Mixture, quotas_of

weights = st.lists(st.floats(0, 1e6), min_size=1, max_size=8).filter(lambda found: any(found))


def make_mixture(quotas, start=0, begun=None):
    return Mixture(quotas, key(3), start, np.zeros(len(quotas), np.int64) if begun is None else np.array(begun))


@given(weights)
def test_quotas_fill_a_block_and_follow_the_weights(found):
    quotas = quotas_of(found)
    assert sum(quotas) == BLOCK
    for weight, quota in zip(found, quotas, strict=True):
        assert (quota > 0) == (weight > 0)
        if len(found) * BLOCK * weight > sum(found):
            assert abs(quota - BLOCK * weight / sum(found)) <= len(found)


def test_quotas_go_by_largest_remainder_and_then_by_place():
    assert quotas_of([1, 1, 1]) == (21846, 21845, 21845)
    assert quotas_of([0.7, 0.3]) == (45875, 19661)


def test_a_tiny_source_gets_a_turn_at_the_cost_of_the_largest():
    assert quotas_of([1e-12, 5.0, 1e-12]) == (1, BLOCK - 2, 1)
    assert quotas_of([0.0, 1.0]) == (0, BLOCK)


@pytest.mark.parametrize("wrong", [[], [0.0], [-1.0, 2.0], [float("inf")], [float("nan"), 1.0]])
def test_weights_that_cannot_be_mixed_are_refused(wrong):
    with pytest.raises(ConfigError, match="cannot be mixed"):
        quotas_of(wrong)


@settings(max_examples=15, deadline=None)
@given(weights.map(quotas_of), st.integers(0, 10**12), st.integers(0, 5))
def test_every_block_has_the_exact_shares(quotas, start, block):
    mixture = make_mixture(quotas, start)
    source, _ = mixture.choose_source(start + block * BLOCK + np.arange(BLOCK))
    assert np.bincount(source, minlength=len(quotas)).tolist() == list(quotas)


@settings(max_examples=15, deadline=None)
@given(weights.map(quotas_of), st.integers(0, 1000), st.integers(1, 2 * BLOCK + 100))
@example((BLOCK - 1, 1), 7, BLOCK + 100)
def test_each_source_is_walked_in_its_own_order(quotas, start, count):
    mixture = make_mixture(quotas, start, range(10, 10 + len(quotas)))
    source, index = mixture.choose_source(start + np.arange(count))
    for n in range(len(quotas)):
        assert np.array_equal(index[source == n], 10 + n + np.arange((source == n).sum()))
        assert mixture.row_places(start + count)[n] == 10 + n + (source == n).sum()
        for position in start + np.flatnonzero(source == n)[:: max(1, count // 3)]:
            assert mixture.position_of(n, index[position - start]) == position


def test_positions_may_come_in_any_order():
    mixture = make_mixture((40_000, BLOCK - 40_000))
    positions = np.array([200_000, 3, 70_000])
    source, index = mixture.choose_source(positions)
    for position, own_source, own_index in zip(positions, source, index, strict=True):
        assert mixture.choose_source(np.array([position])) == (np.array([own_source]), np.array([own_index]))


def test_blocks_are_shuffled_apart():
    mixture = make_mixture((BLOCK // 2, BLOCK // 2))
    first, _ = mixture.choose_source(np.arange(BLOCK))
    second, _ = mixture.choose_source(BLOCK + np.arange(BLOCK))
    assert 0.45 < (first == second).mean() < 0.55
