"""Shards of small pictures with labels, for tests of samples that are fed as they are."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from orchestrator.config.run import RunConfig
from tests.fakes.shards import sample_config, write_tar

FIELDS = {"image": {"members": ["png", "jpg"]}, "label": {"members": ["cls"]}}
CLASSES = 3


def draw_picture(number: int, size: int = 8) -> bytes:
    """A PNG whose class can be learned: one colour channel is bright."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 60, (size, size, 3), dtype=np.uint8)
    pixels[:, :, number % CLASSES] += 180
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_pictures(folder: Path, num_shards: int, pictures: int = 6, first: int = 0) -> Path:
    """Shards of different pictures; the same arguments give the same bytes."""
    for shard in range(first, first + num_shards):
        numbers = range(shard * pictures, (shard + 1) * pictures)
        members = [
            member
            for number in numbers
            for member in (
                (f"p{number:04d}.cls", str(number % CLASSES).encode()),
                (f"p{number:04d}.png", draw_picture(number)),
            )
        ]
        write_tar(folder / f"{shard:04d}.tar", members)
    return folder


def picture_config(root: Path, data: dict[str, Any] | None = None, **sections: dict[str, Any]) -> RunConfig:
    """A config that feeds the pictures in root/data; its work place is root/work."""
    return sample_config(root, FIELDS, data, **sections)
