"""Numbers that depend on the sample and the name alone, and are the same alone, together and on another machine."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.data.decoding.draws import Draw, Draws, sample_keys

names = st.text(max_size=20)
key_lists = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=30)
MANY = sample_keys(17, 0, 3, np.arange(20_000))


@given(key_lists, names, st.integers(-(10**6), 10**6), st.integers(1, 10**6))
def test_one_sample_alone_draws_what_it_draws_in_a_batch(keys, name, low, span):
    together, high = Draws(np.array(keys, np.uint64)), low + span
    alone = [Draw(key) for key in keys]
    assert together.uniform(name, low, high).tolist() == [draw.uniform(name, low, high) for draw in alone]
    assert together.integers(name, low, high).tolist() == [draw.integers(name, low, high) for draw in alone]
    assert together.chance(name, 0.3).tolist() == [draw.chance(name, 0.3) for draw in alone]
    assert together.choice(name, [2, 3, 5]).tolist() == [draw.choice(name, [2, 3, 5]) for draw in alone]


@given(key_lists, names, st.data())
def test_any_slice_and_order_of_a_batch_draws_the_same(keys, name, data):
    rows = data.draw(st.lists(st.integers(0, len(keys) - 1), max_size=20))
    whole = np.array(keys, np.uint64)
    assert Draws(whole[rows]).uniform(name).tolist() == Draws(whole).uniform(name)[rows].tolist()


def test_limits_may_differ_by_sample():
    heights = np.arange(1, 1001)
    tops = Draws(MANY[:1000]).integers("top", 0, heights)
    assert tops.tolist() == [Draw(key).integers("top", 0, h) for key, h in zip(MANY[:1000], heights, strict=True)]


def test_key_of_a_sample_is_the_same_alone_and_in_arrays():
    epochs, ordinals, places = np.array([0, 1, 1]), np.array([5, 5, 9]), np.array([7, 7, 0])
    together = sample_keys(17, epochs, ordinals, places)
    assert together.tolist() == [int(sample_keys(17, *one)) for one in zip(epochs, ordinals, places, strict=True)]


def test_seed_epoch_ordinal_and_place_each_change_the_key():
    keys = {
        int(sample_keys(*parts)) for parts in [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 0, 0)]
    }
    assert len(keys) == 5


def test_uniform_numbers_are_even_over_samples():
    shares = Draws(MANY).uniform("x", -1, 3)
    counts = np.histogram(shares, bins=20, range=(-1, 3))[0]
    assert counts.sum() == MANY.size
    assert np.all(np.abs(counts - 1000) < 5 * np.sqrt(1000))


def test_whole_numbers_reach_both_ends_alike():
    counts = np.bincount(Draws(MANY).integers("x", 2, 7), minlength=8)
    assert counts[:2].tolist() == [0, 0]
    assert counts[7] == 0
    assert np.all(np.abs(counts[2:7] - 4000) < 5 * np.sqrt(4000))


def test_chance_is_the_share_that_was_asked_for():
    assert abs(Draws(MANY).chance("x", 0.25).mean() - 0.25) < 0.015
    assert Draws(MANY).chance("x", 1.0).all()
    assert not Draws(MANY).chance("x", Draws(MANY).uniform("x")).any()  # a share of p: what lies below it
    assert not Draw(7).chance("x", Draw(7).uniform("x"))


def test_numbers_of_two_names_and_of_neighbours_have_nothing_in_common():
    top, left = Draws(MANY).uniform("crop.top"), Draws(MANY).uniform("crop.left")
    assert abs(np.corrcoef(top, left)[0, 1]) < 0.03
    assert abs(np.corrcoef(top[1:], top[:-1])[0, 1]) < 0.03


@pytest.mark.parametrize("draw", [Draw(1), Draws(np.array([1], np.uint64))])
def test_an_empty_range_is_an_error_that_names_the_draw(draw):
    with pytest.raises(ValueError, match=r"'top': nothing lies from 4 up to 4"):
        draw.integers("top", 4, 4)


def test_numbers_are_those_of_format_1():
    """If this fails, every augmented run has changed: raise the format's number instead of these."""
    key = sample_keys(17, 2, 40, 123)
    assert int(key) == 0x2CDC18D49D57FFAD
    assert Draw(key).uniform("crop.top") == 0.8377528250031641
    assert Draw(key).integers("crop.top", 0, 1000) == 837
