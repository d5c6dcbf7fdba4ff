"""Rules for pictures, in the member of one of data.fields. Only `undecodable` reads more than a picture's head."""

import warnings
from collections.abc import Mapping
from io import BytesIO
from typing import Annotated

from PIL import Image
from pydantic import Field

from orchestrator.data.decoding.decode import Undecodable, decode
from orchestrator.data.decoding.images import FORMATS, decode_stored
from orchestrator.prepare.clean.sample import Bytes, Count, Unfit

_ORIENTATION, _TURNED = 0x0112, 5  # EXIF: from 5 on, width and height change places


def undecodable(members: Mapping[str, Bytes], field: str = "image") -> Unfit | None:
    """It is decoded once, as while training."""
    try:
        decode(decode_stored, members[field])
    except Undecodable as error:
        return Unfit(f"{field}: {error}")
    return None


def image_size(
    members: Mapping[str, Bytes],
    field: str = "image",
    min_width: Count | None = None,
    max_width: Count | None = None,
    min_height: Count | None = None,
    max_height: Count | None = None,
) -> Unfit | None:
    """Bounds of its pixels as a viewer shows it, both ends included."""
    try:
        width, height = decode(_read_size, members[field])
    except Undecodable as error:
        return Unfit(f"{field}: {error}")
    return _judge_side("wide", width, min_width, max_width) or _judge_side("high", height, min_height, max_height)


def aspect(
    members: Mapping[str, Bytes], field: str = "image", max_ratio: Annotated[float, Field(ge=1)] = 3.0
) -> Unfit | None:
    """The longer side over the shorter one."""
    try:
        width, height = decode(_read_size, members[field])
    except Undecodable as error:
        return Unfit(f"{field}: {error}")
    ratio = max(width, height) / min(width, height)
    return Unfit(f"{width} x {height} pixels, {ratio:.4g} to 1, more than {max_ratio:g}") if ratio > max_ratio else None


def _judge_side(what: str, pixels: int, least: int | None, most: int | None) -> Unfit | None:
    if least is not None and pixels < least:
        return Unfit(f"{pixels} pixels {what}, fewer than {least}")
    if most is not None and pixels > most:
        return Unfit(f"{pixels} pixels {what}, more than {most}")
    return None


def _read_size(data: Bytes) -> tuple[int, int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # nothing is unpacked here
        image = Image.open(BytesIO(data), formats=FORMATS)
    turned = _read_orientation(image) >= _TURNED
    return (image.height, image.width) if turned else (image.width, image.height)


def _read_orientation(image: Image.Image) -> int:
    """EXIF that cannot be read says nothing."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except (SyntaxError, ValueError, TypeError, LookupError, OSError):
        return 1
    return found if isinstance(found, int) else 1
