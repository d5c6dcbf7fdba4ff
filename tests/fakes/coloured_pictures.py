"""The pictures of pictures.py for runs that are fed them: some do not decode, and names tell shard and place."""

from pathlib import Path

from tests.fakes.pictures import CLASSES, draw_picture
from tests.fakes.shards import write_tar

BROKEN = b"cannot be a picture"


def write_pictures(
    folder: Path, *, shards: int = 4, pictures: int = 12, size: int = 16, broken: tuple[tuple[int, int], ...] = ()
) -> Path:
    """`broken` are (shard, place) of what does not decode."""
    for shard in range(shards):
        members = []
        for place in range(pictures):
            number = shard * pictures + place
            data = BROKEN if (shard, place) in broken else draw_picture(number, size)
            members += [(f"p{place:03d}.png", data), (f"p{place:03d}.cls", str(number % CLASSES).encode())]
        write_tar(folder / f"{shard:03d}.tar", members)
    return folder
