"""Loading samples: Longhaul's batches against webdataset, MosaicML Streaming, and a bare loop over Pillow.

Texts of 3 to 7 KB, shuffled and decoded in one process; JPEGs decoded by as many workers on both sides. Everybody reads
the same samples from the page cache (MosaicML Streaming in its own format), and Longhaul checks every byte and makes
its ledger. Each way is a process of its own; the ways take turns, in another order each round. Run:

    python benchmarks/loader.py --rounds 5 --peer-env streaming-env
"""

import argparse
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from loader_peers import measure
from PIL import Image
from rich.console import Console
from rich.table import Table

from orchestrator.config.run import RunConfig
from orchestrator.core.words import World
from orchestrator.data.feeding.feed import open_batches
from orchestrator.data.feeding.stream import Stream
from orchestrator.data.ordering.order import Order
from orchestrator.data.ordering.skips import Skips
from orchestrator.prepare.run import prepare

PEERS = Path(__file__).with_name("loader_peers.py")
TEXT_BATCH, PICTURE_BATCH = 1024, 64
FOREVER = 10**9  # steps
FASTER_THAN_PEERS, SHARE_OF_PILLOW = 20.0, 0.95


@dataclass(frozen=True, kw_only=True)
class Way:
    """One thing that is measured: a command that prints its samples and seconds."""

    name: str
    folder: str
    command: list[str]
    one_process: bool = True  # its CPU time is all there is


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--text-shards", type=int, default=40)
    parser.add_argument("--picture-shards", type=int, default=8)
    parser.add_argument("--peer-env", type=Path, help="where MosaicML Streaming is, or is to be, installed")
    parser.add_argument("--own", nargs=4, metavar=("KIND", "FOLDER", "COUNT", "THREADS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.own:
        kind, folder, count, threads = options.own
        feed_own(kind, Path(folder), int(count), int(threads))
        return
    with tempfile.TemporaryDirectory(prefix="loader-") as folder:
        texts, pictures = Path(folder) / "texts" / "data", Path(folder) / "pictures" / "data"
        write_texts(texts, options.text_shards)
        write_pictures(pictures, options.picture_shards)
        prepare(config_of("texts", texts.parent, 1))
        prepare(config_of("pictures", pictures.parent, 1))
        peer = streaming_python(options.peer_env) if options.peer_env else None
        show_texts(take_turns(list(text_ways(texts, peer)), options.rounds))
        show_pictures(take_turns(list(picture_ways(pictures)), options.rounds))


# ---- Longhaul ----


def config_of(kind: str, root: Path, threads: int) -> RunConfig:
    fields = {
        "texts": {"text": {"members": ["txt"]}},
        "pictures": {"image": {"members": ["jpg"]}, "label": {"members": ["cls"]}},
    }
    data = {"train": [{"path": str(root / "data")}], "work": str(root / "work"), "fields": fields[kind]}
    return RunConfig.model_validate(
        {
            "name": "loader",
            "data": {**data, "run_samples": 1, "workers": {"threads": threads}},
            "task": {"name": "image_classification"},
            "model": {"transformers": {"model_type": "resnet"}},
            "train": {"steps": 1, "global_batch": TEXT_BATCH if kind == "texts" else PICTURE_BATCH},
        }
    )


def feed_own(kind: str, folder: Path, count: int, threads: int) -> None:
    """The batches that a run of one rank would train on."""
    config = config_of(kind, folder.parent, threads)
    manifest = prepare(config)
    batches = open_batches(config, manifest, Order.of(config, manifest), "train")
    size, limit = config.train.global_batch, config.data.prefetch_bytes
    with Stream(
        batches, World.flat(0, 1), first_step=0, stop_step=FOREVER, skips=Skips(), prefetch_bytes=limit
    ) as stream:
        measure(stream, count, 20 * size, size)


# ---- what is measured ----


def text_ways(folder: Path, peer: str | None) -> Iterator[Way]:
    yield _own("longhaul", "texts", folder, 300 * TEXT_BATCH, 1)
    yield _peer("webdataset", sys.executable, "webdataset texts", folder, 20_000)
    if peer:
        yield _peer("streaming", peer, "streaming texts", folder, 20_000)


def picture_ways(folder: Path) -> Iterator[Way]:
    yield _peer("pillow", sys.executable, "pillow", folder, 2000)
    for workers in (1, 2):
        yield _own(f"longhaul, {workers}", "pictures", folder, 40 * PICTURE_BATCH, workers)
        yield _peer(
            f"webdataset, {workers}", sys.executable, "webdataset pictures", folder, 40 * PICTURE_BATCH, workers
        )


def _own(name: str, kind: str, folder: Path, count: int, threads: int) -> Way:
    command = [sys.executable, __file__, "--own", kind, str(folder), str(count), str(threads)]
    return Way(name=name, folder=str(folder), command=command)


def _peer(name: str, python: str, way: str, folder: Path, count: int, workers: int | None = None) -> Way:
    numbers = [str(count), *([str(workers)] if workers else [])]
    return Way(
        name=name, folder=str(folder), command=[python, str(PEERS), way, str(folder), *numbers], one_process=not workers
    )


Speeds = dict[str, list[tuple[float, float | None]]]  # by way: samples a second of clock and of CPU, a round each


def take_turns(ways: list[Way], rounds: int) -> Speeds:
    speeds: Speeds = {way.name: [] for way in ways}
    for turn in range(rounds):
        for n in range(len(ways)):
            way = ways[(n + turn) % len(ways)]
            found = run_way(way)
            cpu = found["samples"] / found["cpu_s"] if way.one_process else None
            speeds[way.name].append((found["samples"] / found["seconds"], cpu))
    return speeds


def run_way(way: Way) -> dict[str, Any]:
    """With one thread for every library that would take more, so that a worker is a core."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(way.command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def streaming_python(folder: Path) -> str:
    """The interpreter of an environment with MosaicML Streaming, made in `folder` when there is none yet."""
    python = str(folder.absolute() / "bin" / "python")
    if not Path(python).exists():
        print(f"installing mosaicml-streaming into {folder}")
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "mosaicml-streaming"], check=True)
    return python


# ---- the data ----


def write_texts(folder: Path, num_shards: int, samples: int = 1000) -> None:
    """Shards of nothing but .txt members of 3 to 7 KB."""
    draw = random.Random(1)
    words = ["".join(draw.choices("etaoinshrdlucmfw", k=draw.randint(2, 10))) for _ in range(5000)]
    text = " ".join(draw.choices(words, k=400_000)).encode()
    for shard in range(num_shards):
        sizes = [draw.randint(3000, 7000) for _ in range(samples)]
        begins = [draw.randrange(len(text) - size) for size in sizes]
        members = [(f"{n:06d}.txt", text[b : b + size]) for n, (b, size) in enumerate(zip(begins, sizes, strict=True))]
        write_tar(folder / f"{shard:04d}.tar", members)


def write_pictures(folder: Path, num_shards: int, samples: int = 250) -> None:
    """Shards of JPEGs of 400 x 300 with a label; smooth shapes with some noise, about 30 KB each."""
    draw = np.random.default_rng(1)
    for shard in range(num_shards):
        members = []
        for n in range(samples):
            coarse = Image.fromarray(draw.integers(0, 256, (10, 13, 3), np.uint8)).resize((400, 300), Image.BICUBIC)
            pixels = np.asarray(coarse, np.int16) + draw.integers(-12, 13, (300, 400, 3))
            file = io.BytesIO()
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
            members += [(f"{n:06d}.jpg", file.getvalue()), (f"{n:06d}.cls", str(n % 10).encode())]
        write_tar(folder / f"{shard:04d}.tar", members)


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


# ---- what is shown ----


def show_texts(speeds: Speeds) -> None:
    table = _table("texts of 3 to 7 KB, shuffled and decoded, one process: samples a second", speeds)
    own = _middle(speeds, "longhaul")
    for peer in list(speeds)[1:]:
        table.add_row(f"longhaul / {peer}", f"{own / _middle(speeds, peer):.1f}", "", "", "", "")
    table.add_row("asked", f"{FASTER_THAN_PEERS:.1f}", "", "", "", "")
    Console().print(table)


def show_pictures(speeds: Speeds) -> None:
    table = _table("JPEGs of 400 x 300, decoded by so many workers: samples a second", speeds)
    pillow = _middle(speeds, "pillow")
    table.add_row("longhaul, 1 / pillow", f"{_middle(speeds, 'longhaul, 1') / pillow:.2f}", "", "", _share(speeds), "")
    table.add_row("asked", f"{SHARE_OF_PILLOW:.2f}", "", "", "", "")
    for workers in (1, 2):
        ratio = _middle(speeds, f"longhaul, {workers}") / _middle(speeds, f"webdataset, {workers}")
        table.add_row(f"longhaul / webdataset, {workers}", f"{ratio:.2f}", "", "", "", "")
    Console().print(table)


def _table(title: str, speeds: Speeds) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in ("way", "median", "least", "most", "a CPU second", "rounds"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for name, rounds in speeds.items():
        clock = [speed for speed, _ in rounds]
        cpu = [speed for _, speed in rounds if speed is not None]
        shown = [f"{speed:,.0f}" for speed in (median(clock), min(clock), max(clock))]
        table.add_row(name, *shown, f"{median(cpu):,.0f}" if cpu else "", str(len(rounds)))
    table.add_section()
    return table


def _middle(speeds: Speeds, name: str) -> float:
    return median(speed for speed, _ in speeds[name])


def _share(speeds: Speeds) -> str:
    """Of Pillow's speed, by CPU time, which what else the machine does hardly changes."""
    own, pillow = (median(cpu for _, cpu in speeds[name] if cpu) for name in ("longhaul, 1", "pillow"))
    return f"{own / pillow:.2f}"


if __name__ == "__main__":
    main()
