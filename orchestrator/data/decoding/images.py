"""Pictures -> arrays of pixels, by Pillow. decode.py has them in its table; docs/data.md states the rules.

Costs less than Image.open(...).convert("RGB") and numpy.asarray: what is RGB already is not copied once more."""

import struct
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "TIFF")  # by content; Pillow knows others that start programs
MOST_PIXELS = 89_478_485  # where Pillow begins to warn of decompression bombs: 256 MiB of RGB


def decode_rgb(data: bytes | memoryview) -> NDArray[np.uint8]:
    """[height, width, 3], whatever the picture is."""
    return np.asarray(_convert(_open(data), "RGB"))


def decode_grey(data: bytes | memoryview) -> NDArray[np.uint8]:
    """[height, width] of brightness."""
    return np.asarray(_convert(_open(data), "L"))


def decode_stored(data: bytes | memoryview) -> NDArray[Any]:
    """The numbers as the file has them: indices into a palette, 16 bits, any channels. For masks and depths."""
    return np.asarray(_open(data))


def _open(data: bytes | memoryview) -> Image.Image:
    """The first picture, complete, as a viewer shows it."""
    image: Image.Image = Image.open(BytesIO(data), formats=FORMATS)
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels; at most {MOST_PIXELS} are taken")
    image.load()
    _turn_upright(image)
    return image


def _turn_upright(image: Image.Image) -> None:
    """As its EXIF says; EXIF that cannot be read says nothing."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except (SyntaxError, ValueError, TypeError, LookupError, OSError, struct.error):
        return


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode:
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        # 16 bits of grey. Pillow's own conversion cuts at 255, and nearly all becomes white.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert(mode)
    if image.mode in ("I", "F"):
        raise ValueError("its pixels are 32-bit numbers without a scale; decode: image_stored gives them as they are")
    image.info.pop("transparency", None)  # without it Pillow leaves the colours alone
    return image.convert(mode)
