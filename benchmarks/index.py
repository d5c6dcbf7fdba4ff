"""Indexing shards from the page cache, one process: Longhaul against webdataset's reader and Python's tarfile.

Shards of text samples of 3 to 7 KB are written once and read into the page cache. Longhaul's time is that of a new
index, published; the peers only walk through the same files, webdataset (which can do no less) reading every payload.
The ways take turns, in another order each round. Run:

    python benchmarks/index.py --rounds 7
"""

import argparse
import io
import random
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table
from webdataset.tariterators import group_by_keys, tar_file_iterator

from orchestrator.core.words import ShardRef
from orchestrator.data.shards.index import index_shard
from orchestrator.storage.stores import Stores, StoreSettings

LEAST_GB_PER_S = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--shard-mb", type=int, default=256)
    options = parser.parse_args()
    ways: dict[str, Callable[[Path], int]] = {
        "longhaul": _index,
        "webdataset": _walk_with_webdataset,
        "tarfile": _walk_with_tarfile,
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}  # clock and CPU, a round each
    with tempfile.TemporaryDirectory(prefix="index-") as folder:
        samples = [write_shard(Path(folder) / f"{i}.tar", options.shard_mb * 10**6, i) for i in range(options.shards)]
        shards = sorted(Path(folder).glob("*.tar"))
        size = sum(len(shard.read_bytes()) for shard in shards)  # into the page cache, too
        for turn in range(options.rounds):
            for place in range(len(ways)):
                name = list(ways)[(place + turn) % len(ways)]
                began = time.perf_counter(), time.process_time()
                found = [ways[name](shard) for shard in shards]
                seconds[name].append((time.perf_counter() - began[0], time.process_time() - began[1]))
                if found != samples:
                    raise SystemExit(f"{name} found {found} samples instead of {samples}")
                shutil.rmtree(Path(folder) / "work", ignore_errors=True)
    show(seconds, size, sum(samples))


def write_shard(path: Path, size: int, seed: int) -> int:
    """Fill a shard up to `size` bytes; the number of its samples."""
    draw = random.Random(seed)
    text = draw.randbytes(7000)
    samples = 0
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        while tar.offset < size:
            info = tarfile.TarInfo(f"{samples:09d}.txt")
            info.size = draw.randint(3000, 7000)
            tar.addfile(info, io.BytesIO(text))
            samples += 1
    return samples


def show(seconds: dict[str, list[tuple[float, float]]], size: int, samples: int) -> None:
    title = f"indexing {size / 1e9:.2f} GB, {samples} samples, one process"
    table = Table(title=title, title_justify="left")
    for heading in ("way", "GB/s, median", "least", "most", "GB/s of CPU time", "us a sample", "rounds"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for name, values in seconds.items():
        clock = [size / taken / 1e9 for taken, _ in values]
        cpu_s = median(taken for _, taken in values)
        speeds = [f"{speed:.2f}" for speed in (median(clock), min(clock), max(clock), size / cpu_s / 1e9)]
        table.add_row(name, *speeds, f"{cpu_s / samples * 1e6:.1f}", str(len(values)))
    table.add_section()
    table.add_row("asked", "", "", "", f"{LEAST_GB_PER_S:.2f}", "", "")
    Console().print(table)


# ---- the ways ----


def _index(shard: Path) -> int:
    ref = ShardRef(ordinal=0, source=0, name=shard.name, url=str(shard), size_bytes=shard.stat().st_size)
    return len(index_shard(ref, shard.parent / "work", "fail", Stores(StoreSettings())))


def _walk_with_webdataset(shard: Path) -> int:
    with shard.open("rb") as file:
        return sum(1 for _ in group_by_keys({**one, "__url__": shard.name} for one in tar_file_iterator(file)))


def _walk_with_tarfile(shard: Path) -> int:
    with tarfile.open(shard, "r:") as tar:
        return sum(member.isreg() for member in tar)


if __name__ == "__main__":
    main()
