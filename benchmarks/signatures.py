"""Signatures of documents on one core: Longhaul's canonical text, exact hash and MinHash against datatrove's MinHash.

The documents are the quickstart's, sources and documents of this Python installation, cut at line ends to about 3.5 KB.
Longhaul signs all of them each round, datatrove as many of them as take it some seconds; both make 126 hashes of word
5-grams. The two take turns. datatrove lives in an environment of its own. Run:

    python benchmarks/signatures.py --rounds 7 --peer-env datatrove-env
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from orchestrator.data.shards.demo import make_text_demo
from orchestrator.prepare.near.documents import NearRules
from orchestrator.prepare.near.sign import sign_texts
from orchestrator.prepare.near.texts import canonical_texts, hash_texts

PEER = Path(__file__).with_name("signatures_peer.py")
PEER_PACKAGES = ("datatrove[processing]", "spacy")  # spacy cuts its words
DOCUMENT_BYTES = 3500
RULES = NearRules(threshold=0.8, words=5, characters=10, bands=18, rows=7)
TIMES_FASTER, LEAST_PER_S = 100.0, 40_000

Speeds = list[dict[str, float]]  # of a round: documents, bytes, seconds, cpu_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peer-documents", type=int, default=600, help="how many datatrove signs in a round")
    parser.add_argument("--peer-env", type=Path, help="where datatrove is, or is to be, installed")
    options = parser.parse_args()
    peer = peer_python(options.peer_env) if options.peer_env else None
    with tempfile.TemporaryDirectory(prefix="signatures-") as folder:
        texts = list(list_documents(Path(folder) / "demo"))
        listed = Path(folder) / "texts.json"
        listed.write_text(
            json.dumps([text.decode() for text in np.random.default_rng(1).permutation(np.array(texts, object))])
        )
        sign(texts)  # compiles, or loads what is compiled
        own: Speeds = []
        peers: Speeds = []
        for _ in range(options.rounds):
            own.append(sign(texts))
            if peer:
                peers.append(run_peer(peer, listed, options.peer_documents))
    show(own, peers)


def list_documents(folder: Path) -> Iterator[bytes]:
    """The demo's texts, cut behind the line in which DOCUMENT_BYTES are reached; what is much shorter is left out."""
    make_text_demo(folder)
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".txt"):
                    yield from _cut(tar.extractfile(member).read())  # type: ignore[union-attr]


def _cut(text: bytes) -> Iterator[bytes]:
    begin = 0
    while len(text) - begin >= DOCUMENT_BYTES:
        end = text.find(b"\n", begin + DOCUMENT_BYTES) + 1 or len(text)
        yield text[begin:end]
        begin = end


# ---- the two ----


def sign(documents: list[bytes]) -> dict[str, float]:
    """As prepare does: all documents of a shard lie in one buffer."""
    data = b"".join(documents)
    sizes = np.array([len(document) for document in documents], np.int64)
    began, cpu = time.perf_counter(), time.process_time()
    texts, _ = canonical_texts(data, np.cumsum(sizes) - sizes, sizes)
    hash_texts(texts)
    sign_texts(texts, RULES)
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    return {"documents": len(documents), "bytes": len(data), "seconds": seconds, "cpu_s": cpu_s}


def run_peer(python: str, listed: Path, count: int) -> dict[str, float]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [python, str(PEER), str(listed), str(count)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def peer_python(folder: Path) -> str:
    """The interpreter of the peer's environment, which is made when it is not there yet."""
    python = str(folder.absolute() / "bin" / "python")
    if not Path(python).exists():
        print(f"installing {PEER_PACKAGES[0]} into {folder}")
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEER_PACKAGES], check=True)
    return python


# ---- what is shown ----


def show(own: Speeds, peers: Speeds) -> None:
    size = own[0]["bytes"] / own[0]["documents"]
    title = f"signing documents of {size:.0f} bytes, one core, {len(own)} rounds"
    table = Table(title=title, title_justify="left")
    for heading in ("way", "documents/s, median", "least", "most", "of CPU time", "MB/s of CPU time"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for name, rounds in (("longhaul", own), ("datatrove", peers)):
        if rounds:
            clock = [one["documents"] / one["seconds"] for one in rounds]
            speeds = [f"{speed:,.0f}" for speed in (median(clock), min(clock), max(clock), _per_cpu_s(rounds))]
            megabytes = median(one["bytes"] / one["cpu_s"] / 1e6 for one in rounds)
            table.add_row(name, *speeds, f"{megabytes:,.2f}")
    table.add_section()
    if peers:
        table.add_row("ratio", "", "", "", f"{_per_cpu_s(own) / _per_cpu_s(peers):,.0f}", "")
    table.add_row("asked", f"{LEAST_PER_S:,}", "", "", f"{TIMES_FASTER:.0f} times", "")
    Console().print(table)


def _per_cpu_s(rounds: Speeds) -> float:
    return median(one["documents"] / one["cpu_s"] for one in rounds)


if __name__ == "__main__":
    main()
