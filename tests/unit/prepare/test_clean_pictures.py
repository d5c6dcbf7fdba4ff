"""Rules for pictures: bounds of their sides, turned ones, and bytes that are no picture."""

import io

import numpy as np
import pytest
from PIL import Image

from orchestrator.prepare.clean.pictures import aspect, image_size, undecodable
from orchestrator.prepare.clean.sample import Unfit
from tests.fakes.pictures import draw_picture


def picture(width: int, height: int, orientation: int = 1, kind: str = "JPEG") -> dict[str, bytes]:
    file = io.BytesIO()
    image = Image.fromarray(np.zeros((height, width, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(file, kind, exif=exif)
    return {"image": file.getvalue()}


def test_sides_have_bounds_with_both_ends_included() -> None:
    members = picture(40, 20)
    assert image_size(members, min_width=40, max_width=40, min_height=20, max_height=20) is None
    assert image_size(members, min_width=41) == Unfit("40 pixels wide, fewer than 41")
    assert image_size(members, max_width=39) == Unfit("40 pixels wide, more than 39")
    assert image_size(members, min_height=21) == Unfit("20 pixels high, fewer than 21")
    assert image_size(members, max_height=19) == Unfit("20 pixels high, more than 19")


@pytest.mark.parametrize(("orientation", "turned"), [(1, False), (3, False), (6, True), (8, True)])
def test_sides_are_those_a_viewer_shows(orientation: int, turned: bool) -> None:
    said = image_size(picture(40, 20, orientation), min_height=21)
    assert (said is None) == turned


def test_three_to_one_stays() -> None:
    assert aspect(picture(30, 10)) is None
    assert aspect(picture(10, 30)) is None
    assert aspect(picture(31, 10)) == Unfit("31 x 10 pixels, 3.1 to 1, more than 3")
    assert aspect(picture(10, 31)) == Unfit("10 x 31 pixels, 3.1 to 1, more than 3")
    assert aspect(picture(10, 31), max_ratio=4) is None


def test_the_field_may_have_any_name() -> None:
    assert aspect({"photo": picture(31, 10)["image"]}, field="photo") is not None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_only_decoding_sees_that_a_picture_is_cut_off(kind: str) -> None:
    whole = picture(200, 200, kind=kind)["image"]
    cut = {"image": memoryview(whole)[: len(whole) * 3 // 4]}
    assert undecodable({"image": whole}) is None
    said = undecodable(cut)
    assert said is not None
    assert said.reason.startswith("image: ")
    assert image_size({"image": whole}, min_width=200) is None


@pytest.mark.parametrize("data", [b"", b"\x89PNG", b"GIF89a", b"no picture"])
def test_bytes_that_are_no_picture_go_by_every_rule(data: bytes) -> None:
    for rule in (undecodable, image_size, aspect):
        said = rule({"image": data})
        assert said is not None
        assert said.reason.startswith("image: ")


def test_more_pixels_than_are_unpacked_are_undecodable_but_have_a_size() -> None:
    file = io.BytesIO()
    Image.new("1", (10_000, 9_000)).save(file, "PNG")
    members = {"image": file.getvalue()}
    assert image_size(members, max_width=9_999) == Unfit("10000 pixels wide, more than 9999")
    assert aspect(members) is None


def test_a_sound_picture_stays() -> None:
    assert undecodable({"image": draw_picture(1)}) is None
