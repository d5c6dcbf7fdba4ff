"""A manifest of 10^6 shards and 10^10 samples, and the order over it: time to open, memory, look-ups, first batches.

A chain is written by the writers of prepare: every segment's head and table of shards, and the samples of those
segments that the first batches touch. It is then opened in a process of its own, as a rank does. Memory is what that
process has more than before, apart from the imports: its own, and mapped pages of tables, which the system may drop.
A look-up is from a position to shard and sample; a batch also finds the place of each sample in its shard. Run:

    python benchmarks/manifest.py
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import xxhash
from rich.console import Console
from rich.table import Table

from orchestrator.core.words import SampleId
from orchestrator.data.ordering.order import Order
from orchestrator.data.ordering.parts import parts
from orchestrator.data.ordering.row import Shuffling
from orchestrator.data.shards.chain import NO_TOKENIZER, SegmentHead, TokenizerInfo, encode_head, segment_id
from orchestrator.data.shards.manifest import Manifest
from orchestrator.prepare.segment import _list_shards
from orchestrator.prepare.shard import SAMPLES, ShardReport
from orchestrator.storage.tables import encode_table
from orchestrator.storage.workplace import WorkPlace

LOOK_UPS, SEQ_LEN, DOCUMENT_TOKENS, LATE_STEP = 4096, 1024, 1000, 10**6
ASKED_MS, ASKED_MB = 5, 200
TOKENIZER = TokenizerInfo(path="", id="0" * 32, vocab_size=50_000, end_id=0, token_bytes=2)
RULES = "1" * 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=10**6)
    parser.add_argument("--samples", type=int, default=10**4, help="in a shard")
    parser.add_argument("--segment-shards", type=int, default=512)
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # the work place: what the other process is told
    parser.add_argument("--packed", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(Path(options.measure), packed=options.packed)))
        return
    found = {}
    for name in ("samples", "packed"):
        with tempfile.TemporaryDirectory(prefix="manifest-") as folder:
            write_chain(Path(folder), options.shards, options.samples, options.segment_shards, name == "packed")
            command = [sys.executable, __file__, "--measure", folder, *(["--packed"] if name == "packed" else [])]
            found[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    show(found, options.shards, options.samples)


# ---- the chain ----


def write_chain(folder: Path, num_shards: int, samples: int, segment_shards: int, packed: bool) -> None:
    """Heads and shards of all segments; samples of those that LOOK_UPS positions touch at step 0 and at LATE_STEP."""
    work, previous = WorkPlace.at(folder), None
    work.chain("chain").mkdir(parents=True)
    samples_data = None
    per_segment = segment_shards * samples * (DOCUMENT_TOKENS / SEQ_LEN if packed else 1)
    touched = {int(step * LOOK_UPS / per_segment) + more for step in (0, LATE_STEP) for more in (0, 1)}
    for number, first in enumerate(range(0, num_shards, segment_shards)):
        ordinals = range(first, min(first + segment_shards, num_shards))
        reports = [report_shard(ordinal, samples, packed) for ordinal in ordinals]
        data = {"shards": encode_table(_list_shards(reports), {})}
        if number in touched:
            samples_data = samples_data or encode_samples(segment_shards, samples, packed)
            data["samples"] = samples_data
        for name, table in data.items():
            work.segment_table("chain", number, name).write_bytes(table)
        checksums = {name: xxhash.xxh3_128_hexdigest(table) for name, table in data.items()}
        head = SegmentHead(
            number=number,
            id=segment_id(
                previous.id if previous else "", [r.name for r in reports], [r.content for r in reports], RULES, "none"
            ),
            previous=previous.id if previous else "",
            ordinals=ordinals,
            append=range(num_shards),
            source_names=["text"],
            rules=RULES,
            tokenizer=TOKENIZER if packed else NO_TOKENIZER,
            totals={"kept_train": samples * len(reports)},
            bad={"samples": 0, "shards": 0},
            tables={"samples": "", "drops": "", **checksums},
        )
        work.segment_head("chain", number).write_bytes(encode_head(head))
        previous = head


def report_shard(ordinal: int, samples: int, packed: bool) -> ShardReport:
    size = samples * DOCUMENT_TOKENS
    return ShardReport(
        ordinal=ordinal,
        source=0,
        name=f"text/part-{ordinal // 1000:04d}/shard-{ordinal:07d}.tar",
        content=f"{ordinal:032x}",
        verdicts="",
        samples=samples,
        bad_samples=0,
        problem="",
        kept=[samples, 0, 0],
        tokens=[size if packed else 0, 0, 0],
        bytes=[0 if packed else size, 0, 0],
        tokens_checksum=f"{ordinal:032x}",
    )


def encode_samples(num_shards: int, samples: int, packed: bool) -> bytes:
    import pyarrow as pa

    count = num_shards * samples
    rng = np.random.default_rng(0)
    columns = {
        "key": np.char.mod("%08d", np.tile(np.arange(samples), num_shards)),
        "checksum_high": rng.integers(0, 2**64, count, np.uint64),
        "checksum_low": rng.integers(0, 2**64, count, np.uint64),
        "kept": np.ones(count, np.uint8),
        "split": np.zeros(count, np.uint8),
        "first": np.tile(np.arange(samples) * DOCUMENT_TOKENS, num_shards),
        "tokens": np.full(count, DOCUMENT_TOKENS if packed else 0, np.uint32),
        "bytes": np.full(count, 0 if packed else DOCUMENT_TOKENS),
    }
    return encode_table(pa.table({name: pa.array(columns[name]) for name in SAMPLES.names}, schema=SAMPLES), {})


# ---- the process that opens it ----


def measure(work: Path, *, packed: bool) -> dict[str, float]:
    import pyarrow as pa  # so that its own memory is not counted

    assert pa.table({"a": [1]}).num_rows == 1
    own, mapped = read_memory()
    began = time.perf_counter()
    manifest = Manifest.of_chain(work, "chain")
    manifest.kept("train")
    opened_s = time.perf_counter() - began
    found = {"open_s": opened_s, "manifest_mb": read_memory()[0] - own}
    began = time.perf_counter()
    order = Order(
        manifest,
        seed=1,
        weights=[1.0],
        global_batch=LOOK_UPS,
        seq_len=SEQ_LEN if packed else None,
        shuffling=Shuffling(window_samples=262_144),
    )
    found["order_s"] = time.perf_counter() - began
    for name, step in (("first_batch_s", 0), ("late_batch_s", LATE_STEP)):
        began = time.perf_counter()
        cut_batch(order, step)
        found[name] = time.perf_counter() - began
    found["look_ups_ms"] = 1e3 * median(time_look_ups(order, step) for step in range(1, 30))
    found["late_look_ups_ms"] = 1e3 * median(time_look_ups(order, LATE_STEP + step) for step in range(1, 30))
    found["last_epoch_ms"] = 1e3 * median(time_look_ups(order, 10**7 + step) for step in range(30))
    now_own, now_mapped = read_memory()
    return found | {"own_mb": now_own - own, "mapped_mb": now_mapped - mapped}


def cut_batch(order: Order, step: int) -> list[SampleId]:
    slots = order.slots(step)
    found = []
    for unit, here in parts(slots.unit):
        table = order.unit(0, unit).cut(slots.index[here])
        found += map(SampleId, table.ordinal.tolist(), table.place.tolist())
    return found


def time_look_ups(order: Order, step: int) -> float:
    """Of LOOK_UPS positions: their units, their places there, and the shards."""
    began = time.perf_counter()
    slots = order.slots(step)
    for unit, here in parts(slots.unit):
        found = order.unit(0, unit)
        np.searchsorted(found.ends, slots.index[here] * (found.seq_len or 1), side="right")
    return time.perf_counter() - began


def read_memory() -> tuple[float, float]:
    """This process's own memory, and mapped pages of files, in MB."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    sizes = {words[0]: int(words[1]) / 1024 for words in lines if words[0] in ("RssAnon:", "RssFile:")}
    return sizes["RssAnon:"], sizes["RssFile:"]


def show(found: dict[str, dict[str, float]], num_shards: int, samples: int) -> None:
    title = f"{num_shards:,} shards, {num_shards * samples:.0e} samples ({ASKED_MS} ms and {ASKED_MB} MB asked)"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in found:
        table.add_column(name, justify="right")
    rows = {
        "open the manifest, s": "open_s",
        "its memory, MB": "manifest_mb",
        "set up the order, s": "order_s",
        "first batch at step 0, s": "first_batch_s",
        f"first batch at step {LATE_STEP:,}, s": "late_batch_s",
        f"{LOOK_UPS:,} look-ups from step 0 on, ms": "look_ups_ms",
        f"{LOOK_UPS:,} look-ups from step {LATE_STEP:,} on, ms": "late_look_ups_ms",
        f"{LOOK_UPS:,} look-ups in a later epoch, ms": "last_epoch_ms",
        "own memory in the end, MB": "own_mb",
        "mapped pages in the end, MB": "mapped_mb",
    }
    for label, key in rows.items():
        table.add_row(label, *(f"{values[key]:,.2f}" for values in found.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
