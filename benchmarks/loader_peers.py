"""The ways that loader.py measures besides Longhaul, each in a process of its own: it prints one line of JSON.

Imports nothing of Longhaul, since MosaicML Streaming lives in an environment of its own (it wants an older numpy)."""

import json
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

WARM_UP = 2000  # samples, so that buffers are full and workers have begun
BATCH = 64


def measure(samples: Iterable[Any], count: int, warm_up: int = WARM_UP, size: int = 1) -> None:
    """Print the time of `count` items after the first ones; an item is `size` samples."""
    stream = iter(samples)
    warmed = sum(1 for _ in islice(stream, warm_up // size))
    began, cpu = time.perf_counter(), time.process_time()
    found = sum(1 for _ in islice(stream, count // size))
    taken, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    if warmed < warm_up // size or found < count // size:
        raise SystemExit(f"there were {(warmed + found) * size} samples, not {warm_up + count}")
    print(json.dumps({"samples": found * size, "seconds": taken, "cpu_s": cpu_s}))


def webdataset_texts(folder: Path, count: int) -> None:
    import webdataset

    shards = _shards(folder)
    texts = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=1).repeat().shuffle(1000).decode()
    measure(texts, count)


def webdataset_pictures(folder: Path, count: int, workers: int) -> None:
    import webdataset

    shards = _shards(folder)
    pictures = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=1)
    batches = pictures.repeat().shuffle(1000).decode("rgb8").to_tuple("jpg", "cls").batched(BATCH)
    measure(webdataset.WebLoader(batches, batch_size=None, num_workers=workers), count, 20 * BATCH, BATCH)


def pillow(folder: Path, count: int) -> None:
    """The least that decoding can cost: one process, bytes in memory, nothing shuffled, checked or stacked."""
    import numpy as np
    from PIL import Image

    pictures = list(islice((data for shard in _shards(folder) for data in _members(shard, ".jpg")), 500))

    def decode() -> Iterator[Any]:
        while True:
            for data in pictures:
                yield np.asarray(Image.open(BytesIO(data)).convert("RGB"))

    measure(decode(), count, 200)


def streaming_texts(folder: Path, count: int) -> None:
    """MosaicML Streaming has a format of its own: the same texts, written once beside the shards."""
    from streaming import MDSWriter, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    written = folder.parent / "streaming"
    if not written.exists():
        with MDSWriter(out=str(written), columns={"text": "str"}, size_limit=2**23) as writer:
            for shard in _shards(folder):
                for data in _members(shard, ".txt"):
                    writer.write({"text": data.decode()})
    clean_stale_shared_memory()  # what a killed one has left would stop this one
    dataset = StreamingDataset(local=str(written), shuffle=True, batch_size=1024)
    measure((sample for _ in iter(int, 1) for sample in dataset), count)
    clean_stale_shared_memory()


def _shards(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.glob("*.tar"))]


def _members(shard: str, suffix: str) -> Iterator[bytes]:
    with tarfile.open(shard) as tar:
        for member in tar:
            if member.name.endswith(suffix):
                yield tar.extractfile(member).read()  # type: ignore[union-attr]


WAYS = {
    "webdataset texts": webdataset_texts,
    "webdataset pictures": webdataset_pictures,
    "streaming texts": streaming_texts,
    "pillow": pillow,
}

if __name__ == "__main__":
    name, folder, *numbers = sys.argv[1:]
    WAYS[name](Path(folder), *map(int, numbers))
