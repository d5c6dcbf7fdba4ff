"""From tar shards to verified verdicts, through Ray on the CPUs of this machine: documents per second, end to end.

Documents of about 3.5 KB: runs of words from this Python installation's sources, a twelfth of them nearly copied, a
fiftieth the same again, a twentieth pages of one template just below the threshold. Measured: index, checksums,
signatures, candidates, exact similarities and published verdicts; once as it is, once with Gopher's and C4's rules. The
peer cuts shingles in Python, in as many processes, and gives them to rensa, whose estimates it takes for verdicts; it
reads the same shards. Ray, compiled code and processes are warm. Run:

    python benchmarks/prepare.py --documents 50000 --rounds 3 --peer-env rensa-env
"""

import argparse
import io
import json
import os
import random
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import ray
from rich.console import Console
from rich.table import Table

from orchestrator.config.run import RunConfig
from orchestrator.control.fleet import run_all
from orchestrator.core.mapping import tell_nobody
from orchestrator.prepare.judging.judge import judge_segments
from orchestrator.prepare.plan import prepare_steps

PEER = Path(__file__).with_name("prepare_peer.py")
DOCUMENT_BYTES, DOCUMENTS_A_SHARD = 3500, 2500
DEDUP = {"exact": True, "near": {"threshold": 0.8, "recall": 0.95}}
CLEAN = [{"name": "gopher_quality"}, {"name": "gopher_repetition"}, {"name": "c4"}]
ASKED, ASKED_CLEAN, TIMES_FASTER = 40_000, 10_000, 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--no-clean", action="store_true", help="leave out the rounds with cleaning")
    parser.add_argument("--peer-env", type=Path, help="where rensa is, or is to be, installed")
    options = parser.parse_args()
    peer = peer_python(options.peer_env) if options.peer_env else None
    ways: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="lh-prep-", dir="/tmp") as folder:
        root = Path(folder)
        write_shards(root / "data", options.documents)
        write_shards(root / "warm", DOCUMENTS_A_SHARD, seed=1)
        os.environ["RAY_AUTH_MODE"] = "disabled"  # a Ray of this machine's own
        ray.init(num_cpus=options.cpus, include_dashboard=False, _temp_dir=str(root / "ray"), log_to_driver=False)
        try:
            for clean in ([], CLEAN):
                work_through(root, "warm", clean)
            for _ in range(options.rounds):
                seconds, rules = work_through(root, "data", [])
                ways.setdefault("longhaul", []).append(options.documents / seconds)
                if not options.no_clean:
                    ways.setdefault("longhaul, cleaning too", []).append(
                        options.documents / work_through(root, "data", CLEAN)[0]
                    )
                if peer:
                    ways.setdefault("rensa", []).append(options.documents / run_peer(peer, root / "data", options.cpus))
        finally:
            ray.shutdown()
        index_bytes = sum(roll.stat().st_size for roll in root.glob("work/chains/*/*.roll.arrow"))
    show(ways, rules, options)
    print(f"match index, mapped from disk: {index_bytes / options.documents:.0f} bytes a document (400 asked)")


# ---- the documents ----


def write_shards(folder: Path, documents: int, seed: int = 0) -> None:
    folder.mkdir(parents=True)
    texts = list_documents(documents, random.Random(seed))
    for shard in range(-(-documents // DOCUMENTS_A_SHARD)):
        with tarfile.open(folder / f"{shard:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, text in zip(range(DOCUMENTS_A_SHARD), texts, strict=False):
                data = text.encode()
                info = tarfile.TarInfo(f"{shard:05d}-{number:05d}.txt")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def list_documents(count: int, rng: random.Random) -> Iterator[str]:
    """One after another, so that a million need no memory."""
    words = read_words()
    frame = rng.sample(words, 400)
    told: list[str] = []
    for _ in range(count):
        kind = rng.random()
        if told and kind < 0.02:
            text = rng.choice(told)
        elif told and kind < 0.10:
            copied = rng.choice(told).split(" ")
            for _ in range(rng.choice((1, 3, 8, 20))):
                copied[rng.randrange(len(copied))] = f"x{rng.randrange(10**6)}"
            text = " ".join(copied)
        elif kind < 0.15:
            text = " ".join([*frame[:200], *(f"w{rng.randrange(5000)}" for _ in range(50)), *frame[200:]])
        else:
            text = tell(words, rng)
        if len(told) < 20_000:
            told.append(text)
        else:
            told[rng.randrange(len(told))] = text
        yield text


def tell(words: list[str], rng: random.Random) -> str:
    parts: list[str] = []
    size = 0
    while size < DOCUMENT_BYTES:
        begin = rng.randrange(len(words) - 60)
        run = words[begin : begin + rng.randint(20, 60)]
        parts += run
        size += sum(map(len, run)) + len(run)
    return " ".join(parts)[:DOCUMENT_BYTES]


def read_words() -> list[str]:
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return " ".join(file.read_text(errors="replace") for file in files).split()


# ---- the ways ----


def work_through(root: Path, data: str, clean: list[dict[str, str]]) -> tuple[float, Counter[str]]:
    """Seconds from the listing to the last published verdict, and how many went by which rule."""
    work = root / "work"
    shutil.rmtree(work, ignore_errors=True)
    config = RunConfig.model_validate(
        {
            "name": "bench",
            "data": {"train": [{"path": str(root / data)}], "work": str(work)},
            "prepare": {"clean": clean, "dedup": DEDUP, "tokens": {"train_bpe": 300}},
            "model": {"transformers": {"model_type": "llama"}},
            "train": {"steps": 1, "global_batch": 1},
        }
    )
    began = time.perf_counter()
    judged = judge_segments(prepare_steps(config), run_all, tell_nobody)
    rules = Counter(drop.rule for _, verdicts in judged for drops in verdicts.values() for drop in drops)
    return time.perf_counter() - began, rules


def peer_python(folder: Path) -> str:
    python = str(folder.absolute() / "bin" / "python")
    if not Path(python).exists():
        print(f"installing rensa into {folder}")
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "rensa"], check=True)
    return python


def run_peer(python: str, folder: Path, processes: int) -> float:
    done = subprocess.run([python, str(PEER), str(folder), str(processes)], capture_output=True, check=True, text=True)
    return float(json.loads(done.stdout)["seconds"])


# ---- what is shown ----


def show(ways: dict[str, list[float]], rules: Counter[str], options: argparse.Namespace) -> None:
    table = Table(
        title=f"{options.documents:,} documents, {options.cpus} CPUs, {options.rounds} rounds", title_justify="left"
    )
    for heading in ("way", "documents/s, median", "least", "most", "asked"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    asked = {"longhaul": ASKED, "longhaul, cleaning too": ASKED_CLEAN}
    for name, speeds in ways.items():
        figures = (f"{speed:,.0f}" for speed in (median(speeds), min(speeds), max(speeds)))
        table.add_row(name, *figures, f"{asked[name]:,}" if name in asked else "")
    if "rensa" in ways:
        ratio = median(ways["longhaul"]) / median(ways["rensa"])
        table.add_row("longhaul / rensa", f"{ratio:.1f}", "", "", f"{TIMES_FASTER:.0f}")
    console = Console()
    console.print(table)
    console.print(f"dropped: {dict(sorted(rules.items()))}", highlight=False)


if __name__ == "__main__":
    main()
