"""The functions of the table: shapes, pixels, draws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from orchestrator.data.decoding import transform
from orchestrator.data.decoding.decode import Undecodable
from orchestrator.data.decoding.draws import Draw
from orchestrator.data.decoding.transform import TRANSFORMS

COUNTING = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
sides = st.integers(1, 40)
draws = st.builds(Draw, st.integers(0, 2**64 - 1))


def numbered(height: int, width: int):
    """A picture in which each pixel's two channels tell its row and column, from 1."""
    return np.stack(np.broadcast_arrays(*np.ogrid[1 : height + 1, 1 : width + 1], 7), axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
    ("shape", "size", "result"),
    [((6, 8, 3), 3, (3, 4, 3)), ((8, 6), 3, (4, 3)), ((5, 7, 3), 3, (3, 4, 3)), ((6, 8, 3), [10, 4], (10, 4, 3))],
)
def test_resize_takes_the_shorter_side_or_both(shape, size, result):
    assert transform.resize(np.zeros(shape, np.uint8), size).shape == result


def test_resize_has_pillows_pixels_and_leaves_what_fits_alone():
    small = transform.resize(COUNTING, [3, 4], "bicubic")
    assert np.array_equal(small, np.asarray(Image.fromarray(COUNTING).resize((4, 3), Image.Resampling.BICUBIC)))
    assert transform.resize(COUNTING, 6) is COUNTING


def test_center_crop_takes_the_middle():
    assert np.array_equal(transform.center_crop(COUNTING, 4), COUNTING[1:5, 2:6])
    assert np.array_equal(transform.center_crop(COUNTING, [2, 8]), COUNTING[2:4])


def test_crops_of_smaller_pictures_are_filled_with_black_evenly():
    filled = transform.center_crop(COUNTING, [10, 4])
    assert np.array_equal(filled[2:8], COUNTING[:, 2:6])
    assert not filled[:2].any()
    assert not filled[8:].any()


@given(draws, sides, sides, sides, sides, st.integers(0, 5))
def test_random_crop_is_a_stretch_of_the_padded_picture(draw, height, width, out_height, out_width, padding):
    cut = transform.random_crop(numbered(height, width), draw, [out_height, out_width], padding)
    assert cut.shape == (out_height, out_width, 3)
    inside = cut[..., 2] == 7
    rows, columns = np.nonzero(inside)
    if rows.size:
        assert np.unique(cut[..., 0][inside] - rows).size == 1  # row and column both run on by one
        assert np.unique(cut[..., 1][inside] - columns).size == 1


def test_random_crop_reaches_every_place_and_both_ends():
    tops = [int(transform.random_crop(numbered(8, 8), Draw(key), 5)[0, 0, 0]) for key in range(300)]
    assert set(tops) == {1, 2, 3, 4}


@given(draws, sides, sides)
def test_random_resized_crop_has_the_size_that_was_asked_for(draw, height, width):
    assert transform.random_resized_crop(numbered(height, width), draw, [5, 9]).shape == (5, 9, 3)


def test_random_resized_crop_keeps_to_its_shares_of_the_area():
    areas = []
    for key in range(300):
        cut = transform.random_resized_crop(numbered(100, 100), Draw(key), 100, [0.25, 0.5], [1.0, 1.0], "nearest")
        areas.append(len(np.unique(cut[..., 0])) * len(np.unique(cut[..., 1])) / 10_000)
    assert 0.24 < min(areas) < 0.27
    assert 0.48 < max(areas) < 0.51


def test_random_resized_crop_is_the_stretch_that_the_guides_draws_tell():
    for key in range(50):
        draw, name = Draw(key), "random_resized_crop"
        area, ratio = 40 * 60 * draw.uniform(f"{name}.area", 0.08, 1), draw.uniform(f"{name}.ratio", 0.75, 4 / 3)
        height, width = min(40, round((area / ratio) ** 0.5)), min(60, round((area * ratio) ** 0.5))
        top = draw.integers(f"{name}.top", 0, 40 - height + 1)
        left = draw.integers(f"{name}.left", 0, 60 - width + 1)
        cut = transform.random_resized_crop(numbered(40, 60), draw, [height, width])
        assert np.array_equal(cut, numbered(40, 60)[top : top + height, left : left + width])


def test_padding_lets_a_crop_reach_over_the_edge():
    crops = [transform.random_crop(numbered(8, 8), Draw(key), 8, padding=2) for key in range(100)]
    assert {int((crop[..., 2] == 7).sum()) for crop in crops} >= {36, 48, 64}


def test_random_flip_exchanges_left_and_right_for_its_share():
    flipped = [
        np.array_equal(transform.random_flip(COUNTING, Draw(key), 0.25), COUNTING[:, ::-1]) for key in range(400)
    ]
    assert 60 < sum(flipped) < 140


def test_steps_under_one_name_draw_alike_and_under_two_apart():
    picture, mask = numbered(30, 30), numbered(30, 30)[..., 0]
    apart = 0
    for key in range(50):
        cut = transform.random_crop(picture, Draw(key), 10)
        assert np.array_equal(cut[..., 0], transform.random_crop(mask, Draw(key), 10))
        apart += not np.array_equal(cut, transform.random_crop(picture, Draw(key), 10, drawn_as="second"))
    assert apart > 40


def test_normalize_makes_float32_of_bytes_and_of_numbers():
    values = transform.normalize(np.array([[[0, 255]]], np.uint8), mean=[0.5, 0.25], std=[0.5, 0.25])
    assert values.dtype == np.float32
    assert np.allclose(values, [[[-1, 3]]])
    assert transform.normalize(np.array([4.0]), mean=[2.0], std=[4.0]).tolist() == [0.5]
    assert transform.normalize(np.array([51], np.uint8)).tolist() == pytest.approx([0.2])


def test_channels_first_moves_them_and_gives_grey_one():
    assert np.array_equal(transform.channels_first(COUNTING)[1], COUNTING[..., 1])
    assert transform.channels_first(COUNTING[..., 0]).shape == (1, 6, 8)


def test_rows_of_numbers_are_filled_and_cut_to_length():
    assert transform.pad([1, 2], 4, fill=9).tolist() == [1, 2, 9, 9]
    assert transform.truncate(np.array([1, 2, 3]), 2).tolist() == [1, 2]
    assert transform.truncate([1], 2).tolist() == [1]
    with pytest.raises(ValueError, match="3 numbers do not fit into 2"):
        transform.pad([1, 2, 3], 2)


def test_texts_are_lowered_and_stripped():
    assert TRANSFORMS["lower"]("ÄB c") == "äb c"
    assert TRANSFORMS["strip"](" a b\n") == "a b"


def test_pick_finds_a_value_deep_in_json():
    value = {"boxes": [{"class": 3}, {"class": 0}], "7": "x"}
    assert [transform.pick(value, path) for path in ("boxes.1.class", "7")] == [0, "x"]


@pytest.mark.parametrize("path", ["none", "boxes.2", "boxes.x", "boxes.0.class.deeper"])
def test_pick_of_what_is_not_there_makes_the_sample_a_hole(path):
    with pytest.raises(Undecodable, match="has nothing at"):
        transform.pick({"boxes": [{"class": 3}]}, path)
