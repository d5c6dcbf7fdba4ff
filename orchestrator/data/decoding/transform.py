"""What may happen to a value between decoding and batching: plain functions, and the table the config chooses from.

A function takes the value and its arguments, and a `draw` if it has a parameter of that name: the sample's random
numbers (draws.py). A step that names no field is given the sample, a dict, and returns one. fields.py calls them."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from pydantic import Field

from orchestrator.config.arguments import name_parameters
from orchestrator.config.problems import nearest
from orchestrator.core.dotted import find_function, is_dotted
from orchestrator.core.errors import ConfigError
from orchestrator.data.decoding.decode import Undecodable
from orchestrator.data.decoding.draws import Draw

Array = NDArray[Any]
Count = Annotated[int, Field(ge=1)]
Size = Count | Annotated[Sequence[Count], Field(min_length=2, max_length=2)]
Range = Annotated[Sequence[Annotated[float, Field(gt=0)]], Field(min_length=2, max_length=2)]
Filter = Literal["nearest", "bilinear", "bicubic", "lanczos"]
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def resize(image: Array, size: Size, filter: Filter = "bilinear") -> Array:
    """To [height, width]; with one number that is the shorter side, and the longer one follows, rounded down."""
    height, width = image.shape[:2]
    if isinstance(size, int):
        shorter = min(height, width)
        height, width = height * size // shorter, width * size // shorter
    else:
        height, width = size
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), _FILTERS[filter]))


def center_crop(image: Array, size: Size) -> Array:
    """The middle [height, width], or a square; black is added evenly where the picture is smaller."""
    height, width = _pair(size)
    image = _fill_up(image, height, width)
    return _cut(image, (image.shape[0] - height) // 2, (image.shape[1] - width) // 2, height, width)


def random_crop(
    image: Array, draw: Draw, size: Size, padding: Annotated[int, Field(ge=0)] = 0, drawn_as: str = "random_crop"
) -> Array:
    """A [height, width], or a square, from anywhere in the picture with `padding` black pixels around it."""
    height, width = _pair(size)
    around = [(padding, padding), (padding, padding), (0, 0)][: image.ndim]
    image = _fill_up(np.pad(image, around) if padding else image, height, width)
    top = draw.integers(f"{drawn_as}.top", 0, image.shape[0] - height + 1)
    left = draw.integers(f"{drawn_as}.left", 0, image.shape[1] - width + 1)
    return _cut(image, top, left, height, width)


def random_resized_crop(
    image: Array,
    draw: Draw,
    size: Size,
    scale: Range = (0.08, 1.0),
    ratio: Range = (0.75, 4 / 3),
    filter: Filter = "bilinear",
    drawn_as: str = "random_resized_crop",
) -> Array:
    """A stretch with a share of the area in `scale` and width / height in `ratio`, both even, cut to fit; resized."""
    height, width = image.shape[:2]
    area = height * width * draw.uniform(f"{drawn_as}.area", *scale)
    shape = draw.uniform(f"{drawn_as}.ratio", *ratio)
    # Square roots are the same on every machine; powers and logarithms need not be.
    inner_height = min(height, max(1, round(math.sqrt(area / shape))))
    inner_width = min(width, max(1, round(math.sqrt(area * shape))))
    top = draw.integers(f"{drawn_as}.top", 0, height - inner_height + 1)
    left = draw.integers(f"{drawn_as}.left", 0, width - inner_width + 1)
    return resize(_cut(image, top, left, inner_height, inner_width), _pair(size), filter)


def random_flip(
    image: Array, draw: Draw, p: Annotated[float, Field(ge=0, le=1)] = 0.5, drawn_as: str = "random_flip"
) -> Array:
    """Left and right exchanged, for a share of p."""
    return image[:, ::-1] if draw.chance(drawn_as, p) else image


def normalize(
    image: Array,
    mean: Sequence[float] = (0.0,),
    std: Sequence[Annotated[float, Field(gt=0)]] = (1.0,),
) -> NDArray[np.float32]:
    """float32: bytes as 0 to 1, less the mean, over the standard deviation; one number each, or one a channel."""
    top = 255.0 if image.dtype == np.uint8 else 1.0
    scale, offset = 1 / (np.asarray(std) * top), -np.asarray(mean) / np.asarray(std)
    values = image.astype(np.float32)
    # Written out for a row of pixels: numpy is slow over a last axis of three.
    values *= np.broadcast_to(scale, image.shape[-2:]).astype(np.float32, "C")
    values += np.broadcast_to(offset, image.shape[-2:]).astype(np.float32, "C")
    return values


def channels_first(image: Array) -> Array:
    """[height, width, channels] to [channels, height, width]; grey pictures become one channel."""
    return np.moveaxis(image, -1, 0) if image.ndim == 3 else image[None]


def pad(values: ArrayLike, length: Count, fill: float = 0) -> Array:
    """A row of numbers with `fill` after it, up to `length`."""
    row = np.asarray(values)
    if row.size > length:
        raise ValueError(f"{row.size} numbers do not fit into {length}: truncate them first")
    return np.pad(row, (0, length - row.size), constant_values=fill)


def truncate(values: ArrayLike, length: Count) -> Array:
    """The first `length` numbers of a row."""
    return np.asarray(values)[:length]


def lower(text: str) -> str:
    return text.lower()


def strip(text: str) -> str:
    return text.strip()


def pick(value: Any, path: str) -> Any:
    """What stands at a.b.c in a json value; a number is a place in a list. Where nothing does, the sample is a hole."""
    for part in path.split("."):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (LookupError, TypeError, ValueError) as error:
            raise Undecodable(f"has nothing at '{path}'") from error
    return value


def first_match(text: str, patterns: Annotated[Sequence[str], Field(min_length=1)]) -> int:
    """The number of the first of these regular expressions that the text has; without one, the sample is a hole."""
    for number, pattern in enumerate(patterns):
        if re.search(pattern, text):
            return number
    raise Undecodable(f"'{text[:60]}' has none of the patterns")


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _cut(image: Array, top: int, left: int, height: int, width: int) -> Array:
    return image[top : top + height, left : left + width]


def _fill_up(image: Array, height: int, width: int) -> Array:
    rows, columns = max(0, height - image.shape[0]), max(0, width - image.shape[1])
    if not rows and not columns:
        return image
    around = [(rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0)]
    return np.pad(image, around[: image.ndim])


TRANSFORMS: Mapping[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        *(resize, center_crop, random_crop, random_resized_crop, random_flip, normalize, channels_first),
        *(pad, truncate, lower, strip, pick, first_match),
    )
}


def transform_for(name: str, key: str) -> Callable[..., Any]:
    """The function a step names; `key` is where the config says so."""
    if is_dotted(name):
        return find_function(name, key)
    if name not in TRANSFORMS:
        raise ConfigError(
            f"there is no transform '{name}'{nearest(name, TRANSFORMS)}",
            where=key,
            remedy=f"one of {', '.join(TRANSFORMS)}, or a function's dotted name",
        )
    return TRANSFORMS[name]


def takes_draw(function: Callable[..., Any]) -> bool:
    return "draw" in name_parameters(function)
