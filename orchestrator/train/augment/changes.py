"""What may happen to a picture in training: plain functions, and the table that the config chooses from.

check.py checks their arguments; replay.py does on the device what is drawn here. A move draws a matrix for each
picture, a change of colours a number, and what scales pixels draws nothing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from orchestrator.config.problems import nearest
from orchestrator.core.errors import ConfigError, TrainingFailed
from orchestrator.data.decoding.draws import Draws

Numbers = NDArray[np.float64]  # one a picture
Frame = tuple[int, int]  # height, width


def _go_up(span: Sequence[float]) -> Sequence[float]:
    if span[0] > span[1]:
        raise PydanticCustomError("span", "must be a list of the lowest and the highest, in this order")
    return span


Pair = Field(min_length=2, max_length=2)
Degrees = Annotated[Sequence[Annotated[float, Field(ge=-180, le=180)]], Pair, AfterValidator(_go_up)]
Slant = Annotated[Sequence[Annotated[float, Field(gt=-90, lt=90)]], Pair, AfterValidator(_go_up)]
Factor = Annotated[Sequence[Annotated[float, Field(ge=0)]], Pair, AfterValidator(_go_up)]
Enlargement = Annotated[Sequence[Annotated[float, Field(gt=0)]], Pair, AfterValidator(_go_up)]
Count = Annotated[int, Field(ge=1)]
Size = Count | Annotated[Sequence[Count], Pair]
PerChannel = Annotated[Sequence[float], Field(min_length=1)]


class Drawn(NamedTuple):
    """The numbers of one change for many pictures: neutral ones where it does not happen. `key` is where the config has
    the change, and part of its numbers' names: the same change twice is drawn twice."""

    draws: Draws
    key: str
    happens: NDArray[np.bool_]

    def uniform(self, name: str, span: Sequence[float], neutral: float) -> Numbers:
        return np.where(self.happens, self.draws.uniform(f"{self.key}.{name}", *span), neutral)

    def integers(self, name: str, low: int, high: int, neutral: int) -> NDArray[np.int64]:
        return np.where(self.happens, self.draws.integers(f"{self.key}.{name}", low, high), neutral)


class Move(NamedTuple):
    """Where pixels go: matrices [n, 3, 3] from (x, y, 1) before to after, and the size of the pictures after it."""

    matrices: Numbers
    frame: Frame


# ---- moves ----


def rotate(drawn: Drawn, frame: Frame, degrees: Degrees) -> Move:
    """About the middle, against the clock."""
    angles = np.deg2rad(drawn.uniform("degrees", degrees, 0))
    turns = _stay(angles.size)
    turns[:, 0, 0], turns[:, 0, 1] = np.cos(angles), np.sin(angles)
    turns[:, 1, 0], turns[:, 1, 1] = -np.sin(angles), np.cos(angles)
    return Move(_about_middle(turns, frame), frame)


def shear(drawn: Drawn, frame: Frame, x: Slant = (0, 0), y: Slant = (0, 0)) -> Move:
    """Upright lines lean to the right by x degrees, then level ones rise to the right by y."""
    lean, rise = (np.tan(np.deg2rad(drawn.uniform(name, span, 0))) for name, span in (("x", x), ("y", y)))
    leaning, rising = _stay(lean.size), _stay(rise.size)
    leaning[:, 0, 1], rising[:, 1, 0] = -lean, -rise
    return Move(_about_middle(rising @ leaning, frame), frame)


def zoom(drawn: Drawn, frame: Frame, factor: Enlargement) -> Move:
    """What is in the middle becomes larger by the factor, or smaller if it is below one."""
    factors = drawn.uniform("factor", factor, 1)
    larger = _stay(factors.size)
    larger[:, 0, 0] = larger[:, 1, 1] = factors
    return Move(_about_middle(larger, frame), frame)


def flip(drawn: Drawn, frame: Frame, direction: Literal["left_right", "up_down"] = "left_right") -> Move:
    """Left and right exchanged, or above and below."""
    mirrored = _stay(drawn.happens.size)
    axis = 0 if direction == "left_right" else 1
    mirrored[:, axis, axis] = np.where(drawn.happens, -1, 1)
    return Move(_about_middle(mirrored, frame), frame)


def crop(drawn: Drawn, frame: Frame, size: Size, padding: Annotated[int, Field(ge=0)] = 0) -> Move:
    """A [height, width], or a square, from anywhere in the picture with `padding` black pixels around it."""
    after = as_frame(size)
    moved = _stay(drawn.happens.size)
    for axis, name, before, cut, middle in zip(
        (1, 0), ("top", "left"), frame, after, middle_of(frame, after), strict=True
    ):
        if cut > before + 2 * padding:
            raise TrainingFailed(
                f"pictures of {list(frame)} with {padding} pixels around them are too small to cut out {list(after)}",
                where=f"{drawn.key}.args.size",
                remedy="cut out less, or put a resize before it in data.transforms",
            )
        moved[:, axis, 2] = -drawn.integers(name, -padding, before + padding - cut + 1, middle)
    return Move(moved, after)


def as_frame(size: Size) -> Frame:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def middle_of(frame: Frame, cut: Frame) -> Frame:
    """Where a cut from the middle begins: top and left."""
    return (frame[0] - cut[0]) // 2, (frame[1] - cut[1]) // 2


def _stay(number: int) -> Numbers:
    """Matrices that move nothing."""
    return np.tile(np.eye(3), (number, 1, 1))


def _about_middle(matrices: Numbers, frame: Frame) -> Numbers:
    """The same, with the middle of the picture where it was."""
    there = np.eye(3)
    there[:2, 2] = (frame[1] - 1) / 2, (frame[0] - 1) / 2
    return there @ matrices @ np.linalg.inv(there)


# ---- colours ----


def brightness(drawn: Drawn, factor: Factor) -> Numbers:
    """Pixels times the factor: 0 is black, 1 leaves them."""
    return drawn.uniform("factor", factor, 1)


def contrast(drawn: Drawn, factor: Factor) -> Numbers:
    """The distance from the picture's mean brightness times the factor: 0 is that grey, 1 leaves pixels alone."""
    return drawn.uniform("factor", factor, 1)


def saturation(drawn: Drawn, factor: Factor) -> Numbers:
    """The distance from each pixel's brightness times the factor: 0 is grey, 1 leaves pixels alone."""
    return drawn.uniform("factor", factor, 1)


def hue(drawn: Drawn, degrees: Degrees) -> Numbers:
    """Colours turned round the colour wheel; radians."""
    return np.deg2rad(drawn.uniform("degrees", degrees, 0))


# ---- scales ----


def rescale(scale: float, offset: float = 0.0) -> tuple[Numbers, Numbers]:
    """Pixels times the scale, and the offset added."""
    return np.array([scale]), np.array([offset], np.float64)


def normalize(
    mean: PerChannel, std: Annotated[Sequence[Annotated[float, Field(gt=0)]], Field(min_length=1)]
) -> tuple[Numbers, Numbers]:
    """Pixels less the mean, over the deviation: one number each, or one a channel."""
    return 1 / np.asarray(std, np.float64), -np.asarray(mean, np.float64) / np.asarray(std)


# ---- the table ----

Table = Mapping[str, Callable[..., Any]]
MOVES: Table = {function.__name__: function for function in (rotate, shear, zoom, flip, crop)}
COLOURS: Table = {function.__name__: function for function in (brightness, contrast, saturation, hue)}
SCALES: Table = {function.__name__: function for function in (rescale, normalize)}
CHANGES: Table = {**MOVES, **COLOURS, **SCALES}


def change_for(name: str, key: str) -> Callable[..., Any]:
    """The function a change names; `key` is where the config says so."""
    if name not in CHANGES:
        raise ConfigError(
            f"there is no change '{name}'{nearest(name, CHANGES)}", where=key, remedy=f"one of {', '.join(CHANGES)}"
        )
    return CHANGES[name]
