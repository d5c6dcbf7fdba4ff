"""Changes of pictures: what each does to a picture worked out by hand or by Pillow, and that it follows from the sample
alone."""

from typing import Any

import numpy as np
import pytest
import torch
from kornia.geometry.transform import get_rotation_matrix2d, get_shear_matrix2d
from PIL import Image, ImageEnhance

from orchestrator.core.errors import TrainingFailed
from orchestrator.data.decoding.draws import Draw, Draws, sample_keys
from orchestrator.train.augment.changes import Drawn, crop, flip, rotate, shear, zoom
from orchestrator.train.augment.replay import Augmentation
from tests.fakes.changes import CROP, EVERYTHING, FLIP, HUE
from tests.fakes.small_runs import picture_config

KEYS = sample_keys(17, 0, 3, np.arange(64))


def augmentation(*steps: dict[str, Any]) -> Augmentation:
    return Augmentation(picture_config(data={"augment": list(steps)}))


def make_pictures(number: int = len(KEYS), height: int = 12, width: int = 10) -> torch.Tensor:
    rng = np.random.default_rng(number)
    return torch.from_numpy(rng.random((number, 3, height, width), np.float32))


def change(pictures: torch.Tensor, *steps: dict[str, Any], keys: Any = KEYS) -> torch.Tensor:
    keys = keys[: len(pictures)]
    return augmentation(*steps).change({"pixel_values": pictures}, {"draw_keys": keys})["pixel_values"]


def always() -> Drawn:
    return Drawn(Draws(KEYS[:3]), "step", np.ones(3, np.bool_))


def span(value: float) -> list[float]:
    return [value, value]


def as_uint8(picture: torch.Tensor) -> np.ndarray:
    return (picture * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


# ---- moves ----


def test_matrices_are_those_of_kornia():
    middle, n = torch.tensor([[4.5, 5.5]]).repeat(3, 1).double(), torch.ones(3, dtype=torch.float64)
    turned = get_rotation_matrix2d(middle, 20 * n, torch.ones(3, 2, dtype=torch.float64))
    assert rotate(always(), (12, 10), span(20)).matrices[:, :2] == pytest.approx(turned.numpy())
    larger = get_rotation_matrix2d(middle, 0 * n, 1.5 * torch.ones(3, 2, dtype=torch.float64))
    assert zoom(always(), (12, 10), span(1.5)).matrices[:, :2] == pytest.approx(larger.numpy())
    leaning = get_shear_matrix2d(middle, torch.deg2rad(20 * n), torch.deg2rad(10 * n))
    assert shear(always(), (12, 10), span(20), span(10)).matrices == pytest.approx(leaning.numpy())


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_quarter_turns_go_against_the_clock(degrees):
    (picture,) = square = make_pictures(1, 9, 9)
    (turned,) = change(square, {"name": "rotate", "args": {"degrees": span(degrees)}})
    assert torch.allclose(turned, torch.rot90(picture, degrees // 90, (1, 2)), atol=1e-5)


def test_a_small_turn_is_that_of_pillow():
    smooth = torch.linspace(0, 1, 40)[None, :, None] * torch.linspace(0, 1, 40)[None, None] * torch.ones(3, 1, 1)
    (turned,) = change(smooth[None], {"name": "rotate", "args": {"degrees": span(25)}})
    by_pillow = Image.fromarray(as_uint8(smooth)).rotate(25, Image.Resampling.BILINEAR)
    inside = slice(10, 30)
    difference = as_uint8(turned).astype(int)[inside, inside] - np.asarray(by_pillow).astype(int)[inside, inside]
    assert np.abs(difference).max() <= 2


@pytest.mark.parametrize(("direction", "axis"), [("left_right", 3), ("up_down", 2)])
def test_flips_exchange_the_sides_of_a_share_of_the_pictures(direction, axis):
    pictures = make_pictures()
    flipped = change(pictures, {"name": "flip", "p": 0.5, "args": {"direction": direction}})
    turned = [torch.allclose(a, b, atol=1e-5) for a, b in zip(flipped, pictures.flip(axis), strict=True)]
    same = [torch.allclose(a, b, atol=1e-5) for a, b in zip(flipped, pictures, strict=True)]
    assert turned == [not other for other in same]
    assert turned == [Draw(int(key)).chance("data.augment.0.p", 0.5) for key in KEYS]
    assert 20 < sum(turned) < 44


def test_crops_are_cut_from_where_their_draws_say_with_black_around():
    pictures = make_pictures()
    cut = change(pictures, CROP)
    around = torch.nn.functional.pad(pictures, (3, 3, 3, 3))
    places = set()
    for key, one, picture in zip(KEYS, cut, around, strict=True):
        draw = Draw(int(key))
        top = draw.integers("data.augment.0.top", -3, 12 + 3 - 8 + 1) + 3
        left = draw.integers("data.augment.0.left", -3, 10 + 3 - 8 + 1) + 3
        places.add((top, left))
        assert torch.allclose(one, picture[:, top : top + 8, left : left + 8], atol=1e-5)
    assert len(places) > 20
    assert {top for top, _ in places} >= {0, 10}
    assert {left for _, left in places} >= {0, 8}


def test_zooming_in_enlarges_the_middle_and_zooming_out_leaves_black_around():
    picture = torch.zeros(1, 3, 9, 9)
    picture[..., 4, 4] = 1
    larger = change(picture, {"name": "zoom", "args": {"factor": span(2)}})
    assert larger[0, 0, 4, 3:6].tolist() == pytest.approx([0.5, 1, 0.5])
    smaller = change(torch.ones(1, 3, 9, 9), {"name": "zoom", "args": {"factor": span(0.5)}})
    assert smaller[0, 0, 4].tolist() == pytest.approx([0, 0, 1, 1, 1, 1, 1, 0, 0])


def test_shear_leans_the_picture_to_the_right():
    picture = torch.zeros(1, 3, 9, 9)
    picture[..., 4] = 1  # an upright line
    leaning = change(picture, {"name": "shear", "args": {"x": span(45)}})
    assert torch.allclose(leaning[0, 0], torch.eye(9).flip(1), atol=1e-5)


def test_moves_in_a_row_happen_in_the_order_given():
    pictures = make_pictures(4, 9, 9)
    quarter = {"name": "rotate", "args": {"degrees": span(90)}}
    flip_all = {"name": "flip", "p": 1.0}
    turned = torch.rot90(pictures, 1, (2, 3))
    assert torch.allclose(change(pictures, quarter, flip_all), turned.flip(3), atol=1e-5)
    assert not torch.allclose(turned.flip(3), torch.rot90(pictures.flip(3), 1, (2, 3)), atol=0.1)
    small = {"name": "crop", "args": {"size": 5}, "p": 1e-9}
    assert torch.allclose(change(pictures, small, quarter), turned[:, :, 2:7, 2:7], atol=1e-5)


def test_moves_in_a_row_are_one_look_up_between_pixels():
    pictures = make_pictures(4, 9, 9)
    there_and_back = [{"name": "rotate", "args": {"degrees": span(degrees)}} for degrees in (33, -33)]
    assert torch.allclose(change(pictures, *there_and_back), pictures, atol=1e-4)
    drawn = Drawn(Draws(KEYS[:4]), "step", np.ones(4, np.bool_))
    cut = crop(drawn, (9, 9), 5).matrices
    mirrored = flip(drawn, (5, 5)).matrices
    by_hand = (mirrored @ cut)[:, 0]  # x after is 4 - (x - left)
    assert by_hand == pytest.approx(np.stack([[-1.0, 0, 4 - left] for left in cut[:, 0, 2]]))


def test_a_crop_that_is_larger_than_the_picture_is_an_error_with_the_sizes():
    with pytest.raises(
        TrainingFailed, match=r"pictures of \[12, 10\] with 0 pixels around them .* \[16, 8\]"
    ) as caught:
        change(make_pictures(), FLIP, {"name": "crop", "args": {"size": [16, 8]}})
    assert str(caught.value).startswith("data.augment.1.args.size: ")


# ---- colours and scales ----


@pytest.mark.parametrize(
    ("name", "enhancer"),
    [("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast), ("saturation", ImageEnhance.Color)],
)
@pytest.mark.parametrize("factor", [0, 0.4, 1.7])
def test_colours_change_as_pillow_changes_them(name, enhancer, factor):
    pictures = (make_pictures(2) * 255).round() / 255
    for before, after in zip(pictures, change(pictures, {"name": name, "args": {"factor": span(factor)}}), strict=True):
        by_pillow = np.asarray(enhancer(Image.fromarray(as_uint8(before))).enhance(factor)).astype(int)
        assert np.abs(as_uint8(after).astype(int) - by_pillow).max() <= 2


def test_a_third_of_the_colour_wheel_makes_red_green():
    red = torch.tensor([0.8, 0.1, 0.1])[None, :, None, None].expand(1, 3, 2, 2)
    turned = change(red, {"name": "hue", "args": {"degrees": span(120)}})
    assert turned[0, :, 0, 0].tolist() == pytest.approx([0.1, 0.8, 0.1], abs=1e-5)


def test_pictures_that_a_change_does_not_happen_to_keep_their_bits():
    pictures = make_pictures()
    changed = change(pictures, HUE)
    kept = [torch.equal(a, b) for a, b in zip(changed, pictures, strict=True)]
    assert kept == [not Draw(int(key)).chance("data.augment.0.p", 0.5) for key in KEYS]


def test_scales_are_arithmetic_by_channel():
    pictures = make_pictures(2)
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.25, 0.125])
    normal = {"name": "normalize", "args": {"mean": mean.tolist(), "std": std.tolist()}}
    expected = (pictures - mean[:, None, None]) / std[:, None, None]
    assert torch.allclose(change(pictures, normal), expected, atol=1e-5)
    assert torch.allclose(
        change(pictures, {"name": "rescale", "args": {"scale": 2, "offset": -1}}), pictures * 2 - 1, atol=1e-6
    )


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"name": "normalize", "args": {"mean": [0, 0], "std": [1]}}, "numbers for 2 channels, and pictures have 1"),
        (HUE, "pictures have 1 channels, not red, green and blue"),
    ],
)
def test_channels_that_do_not_fit_are_named(step, said):
    with pytest.raises(TrainingFailed, match=said):
        change(make_pictures()[:, :1], step)


# ---- the same on every machine ----


def test_a_sample_is_changed_alike_in_every_slice_of_a_batch():
    pictures = make_pictures()
    whole = change(pictures, *EVERYTHING)
    for begin, end in ((0, 1), (1, 7), (7, 40), (40, 64)):
        part = change(pictures[begin:end], *EVERYTHING, keys=KEYS[begin:end])
        assert torch.allclose(part, whole[begin:end], atol=1e-5), (begin, end)


def test_the_same_keys_give_the_same_bits_and_other_epochs_others():
    pictures = make_pictures()
    first = change(pictures, *EVERYTHING)
    assert torch.equal(change(pictures, *EVERYTHING), first)
    again = change(pictures, *EVERYTHING, keys=sample_keys(17, 1, 3, np.arange(64)))
    assert all((a - b).abs().max() > 0.05 for a, b in zip(first, again, strict=True))


def test_the_same_change_twice_is_drawn_twice():
    pictures = make_pictures(64, 9, 9)
    twice, once = change(pictures, FLIP, FLIP), change(pictures, FLIP)
    assert not torch.allclose(twice, pictures, atol=1e-3)
    assert not torch.allclose(twice, once, atol=1e-3)
    one, other = (Drawn(Draws(KEYS), key, np.ones(len(KEYS), np.bool_)) for key in ("first", "second"))
    assert np.all(one.uniform("x", [0, 1], 0) != other.uniform("x", [0, 1], 0))
    assert np.any(one.integers("x", 0, 9, 0) != other.integers("x", 0, 9, 0))


def test_random_numbers_of_torch_are_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    change(make_pictures(), *EVERYTHING)
    assert torch.equal(torch.get_rng_state(), before)


def test_pictures_keep_their_type_and_numbers_are_taken_in_float32():
    coarse = make_pictures().bfloat16()
    changed = change(coarse, *EVERYTHING)
    assert changed.dtype == torch.bfloat16
    assert torch.equal(changed, change(coarse.float(), *EVERYTHING).bfloat16())


# ---- evaluation ----


def test_evaluation_scales_and_cuts_the_middle_and_changes_nothing_else():
    pictures = make_pictures(2)
    settled = augmentation(*EVERYTHING).settle({"pixel_values": pictures})["pixel_values"]
    middle = pictures[:, :, 2:10, 1:9]
    expected = (middle - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / 0.2
    assert torch.allclose(settled, expected, atol=1e-5)
    wide = augmentation({"name": "crop", "args": {"size": [13, 12], "padding": 2}})
    assert torch.equal(
        wide.settle({"pixel_values": pictures})["pixel_values"], torch.nn.functional.pad(pictures, (1, 1, 1, 0))
    )


def test_crops_that_happen_to_none_are_the_middles_of_evaluation():
    pictures = make_pictures(20)
    rarely = {**CROP, "p": 1e-9}
    cut, settled = change(pictures, rarely), augmentation(rarely).settle({"pixel_values": pictures})["pixel_values"]
    assert torch.allclose(cut, settled, atol=1e-5)


def test_without_changes_inputs_pass_untouched():
    inputs = {"features": torch.ones(1)}
    nothing = augmentation()
    assert nothing.change(inputs, {}) is inputs
    assert nothing.settle(inputs) is inputs
    with pytest.raises(TrainingFailed, match="collate returns features, and no pixel_values"):
        augmentation(FLIP).change(inputs, {"draw_keys": KEYS})
