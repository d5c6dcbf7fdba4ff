"""Tar shards of small pictures whose class can be seen, for runs that are fed samples."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from tests.fakes.shards import write_tar

CLASSES = 3
BROKEN = "cannot be a picture"


def write_pictures(
    folder: Path, *, shards: int = 4, pictures: int = 12, size: int = 16, broken: tuple[tuple[int, int], ...] = ()
) -> Path:
    """`shards` of PNGs, mostly of one colour, and their class. `broken` are (shard, place) of what does not decode."""
    rng = np.random.default_rng(4)
    for shard in range(shards):
        members = []
        for place in range(pictures):
            label = int(rng.integers(CLASSES))
            data = make_png(rng, label, size) if (shard, place) not in broken else BROKEN.encode()
            members += [(f"p{place:03d}.png", data), (f"p{place:03d}.cls", str(label).encode())]
        write_tar(folder / f"{shard:03d}.tar", members)
    return folder


def make_png(rng: np.random.Generator, label: int, size: int) -> bytes:
    pixels = rng.integers(0, 80, (size, size, 3), dtype=np.uint8)
    pixels[..., label] += 150
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()
