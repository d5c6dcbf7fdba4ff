"""data.augment on the device that trains: what changes.py draws for the samples of a micro-batch is done to their
pictures by kornia. Between a task's collate and its step, in loop.py and evaluate.py.

Numbers come from the samples' keys alone, never from torch: a picture is changed alike on any rank and in any slice."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from orchestrator.config.data import AugmentSection
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import TrainingFailed
from orchestrator.data.decoding.draws import Draws
from orchestrator.train.augment.changes import MOVES, SCALES, Drawn, Numbers, as_frame, change_for, middle_of
from orchestrator.train.augment.mixup import MIXED, mix
from orchestrator.train.tasks.task import Fields, Inputs

PIXELS = "pixel_values"


class Step(NamedTuple):
    """One change with its arguments, ready to be drawn."""

    key: str
    section: AugmentSection
    function: Callable[..., Any]

    @property
    def name(self) -> str:
        return self.section.name

    @property
    def kind(self) -> str:
        return "move" if self.name in MOVES else self.name

    def draw(self, draws: Draws) -> Drawn:
        return Drawn(draws, self.key, draws.chance(f"{self.key}.p", self.section.p))


class Augmentation:
    """What the config wants done to pictures. Without data.augment and data.mixup it does nothing."""

    def __init__(self, config: RunConfig) -> None:
        self._steps = list(map(make_step, range(len(config.data.augment)), config.data.augment))
        self._mixup = config.data.mixup
        if any(step.name not in SCALES for step in self._steps):
            import kornia  # noqa: F401 - a quarter of a second, now and not in the first step

    def change(self, inputs: Inputs, fields: Fields) -> Inputs:
        """In training: all of it. `fields` are what the task collated."""
        if not self._steps and self._mixup is None:
            return inputs
        keys, pixels = fields["draw_keys"], find_pixels(inputs, () if self._mixup is None else MIXED)
        changed = inputs | {PIXELS: replay(self._steps, pixels.float(), Draws(keys))}
        if self._mixup is not None:
            changed = mix(changed, keys, self._mixup.alpha)
        return changed | {PIXELS: changed[PIXELS].to(pixels.dtype)}

    def settle(self, inputs: Inputs) -> Inputs:
        """In evaluation: what draws nothing, and the middle of what is cropped, in the same order."""
        steps = [step for step in self._steps if step.name in SCALES or step.name == "crop"]
        if not steps:
            return inputs
        pixels = find_pixels(inputs)
        changed = pixels.float()
        for step in steps:
            changed = cut_middle(changed, step) if step.name == "crop" else scale(changed, step)
        return inputs | {PIXELS: changed.to(pixels.dtype)}


def make_step(i: int, section: AugmentSection) -> Step:
    key = f"data.augment.{i}"
    return Step(key, section, partial(change_for(section.name, f"{key}.name"), **section.args))


def replay(steps: Sequence[Step], pixels: torch.Tensor, draws: Draws) -> torch.Tensor:
    """All steps, each as it is drawn for the picture; moves in a row are one."""
    for kind, neighbours in groupby(steps, lambda step: step.kind):
        if kind == "move":
            pixels = move_pixels(pixels, list(neighbours), draws)
            continue
        for step in neighbours:
            pixels = scale(pixels, step) if kind in SCALES else paint(pixels, step, draws)
    return pixels


def find_pixels(inputs: Inputs, others: Sequence[str] = ()) -> torch.Tensor:
    """A task of the user's own may have other names."""
    missing = [name for name in (PIXELS, *others) if name not in inputs]
    if missing:
        raise TrainingFailed(
            f"the task's collate returns {', '.join(inputs)}, and no {' and no '.join(missing)}",
            where="data.augment" if PIXELS in missing else "data.mixup",
            remedy="return pictures and the like under the names of docs/augment.md, or leave this out",
        )
    return inputs[PIXELS]


def move_pixels(pixels: torch.Tensor, steps: Sequence[Step], draws: Draws) -> torch.Tensor:
    """Several moves in a row are one matrix and one look-up between pixels: faster, and less blurred."""
    from kornia.geometry.transform import warp_affine

    matrices, frame = np.eye(3)[None], (pixels.shape[2], pixels.shape[3])
    for step in steps:
        move = step.function(step.draw(draws), frame)
        matrices, frame = move.matrices @ matrices, move.frame
    placed: torch.Tensor = warp_affine(pixels, as_tensor(matrices[:, :2], pixels), frame)
    return placed


def paint(pixels: torch.Tensor, step: Step, draws: Draws) -> torch.Tensor:
    from kornia import enhance

    if step.name == "hue" and pixels.shape[1] != 3:
        raise TrainingFailed(
            f"pictures have {pixels.shape[1]} channels, not red, green and blue", where=f"{step.key}.name"
        )
    painters = {
        "brightness": enhance.adjust_brightness_accumulative,
        "contrast": enhance.adjust_contrast_with_mean_subtraction,
        "saturation": enhance.adjust_saturation_with_gray_subtraction,
        "hue": enhance.adjust_hue,
    }
    drawn = step.draw(draws)
    painted = painters[step.name](pixels, as_tensor(step.function(drawn), pixels))
    happens = torch.from_numpy(drawn.happens).to(pixels.device)
    return torch.where(happens[:, None, None, None], painted, pixels)


def scale(pixels: torch.Tensor, step: Step) -> torch.Tensor:
    factors, offsets = (as_tensor(numbers, pixels)[:, None, None] for numbers in step.function())
    channels = max(len(factors), len(offsets))
    if channels not in (1, pixels.shape[1]):
        raise TrainingFailed(
            f"has numbers for {channels} channels, and pictures have {pixels.shape[1]}", where=f"{step.key}.args"
        )
    return pixels * factors + offsets


def cut_middle(pixels: torch.Tensor, step: Step) -> torch.Tensor:
    """Without a look-up between pixels; black is added evenly where the picture is smaller."""
    frame = (pixels.shape[2], pixels.shape[3])
    cut = as_frame(step.section.args["size"])
    (top, left), (height, width) = middle_of(frame, cut), cut
    return functional.pad(pixels, (-left, left + width - frame[1], -top, top + height - frame[0]))


def as_tensor(numbers: Numbers, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(numbers).to(like.device, like.dtype)
