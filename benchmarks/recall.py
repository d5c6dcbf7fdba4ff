"""Recall and precision of near duplicates against brute force over all pairs of real documents.

The documents are the quickstart's, sources and documents of this Python installation, cut at line ends to about 3.5 KB;
generated tables and repeated passages among them are near duplicates. True pairs are all pairs whose exact Jaccard
similarity is at or above the threshold. A pair counts as found if the later one goes, or would not go by brute force
either (its partner goes itself). Run:

    python benchmarks/recall.py --documents 6000
"""

import argparse
import tempfile
from pathlib import Path

import numba
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from signatures import list_documents

from orchestrator.config.preparing import NearSection
from orchestrator.prepare.near.compare import measure_similarity
from orchestrator.prepare.near.decide import judge
from orchestrator.prepare.near.documents import NearRules
from orchestrator.prepare.near.sign import cut_sets, sign_texts
from orchestrator.prepare.near.texts import canonical_texts

THRESHOLDS = (0.7, 0.8, 0.9)
LEAST_RECALL, PRECISION = 0.95, 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=6000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        documents = list(list_documents(Path(folder) / "demo"))
    chosen = np.random.default_rng(1).permutation(len(documents))[: options.documents]
    documents = [documents[i] for i in chosen]
    sizes = np.array([len(document) for document in documents])
    texts, _ = canonical_texts(b"".join(documents), np.cumsum(sizes) - sizes, sizes)
    table = Table(title=f"{len(documents):,} documents of {sizes.mean():.0f} bytes", title_justify="left")
    for heading in ("at", "bands", "true pairs", "should go", "go", "recall", "precision", "asked"):
        table.add_column(heading, justify="right")
    for threshold in THRESHOLDS:
        rules = NearRules.of(NearSection(threshold=threshold))
        signatures, sets = sign_texts(texts, rules), cut_sets(texts, rules)
        verdicts, _ = judge(
            signatures.keys,
            signatures.sketch,
            0,
            threshold,
            lambda numbers, rules=rules: cut_sets(texts, rules, numbers),
        )
        pairs = list_true_pairs(sets.flat, sets.ends, threshold)
        gone = verdicts.partner >= 0
        true = {(int(a), int(b)) for a, b in pairs}
        right = sum((int(verdicts.partner[d]), int(d)) in true for d in np.flatnonzero(gone))
        kept_both = sum(not gone[a] and not gone[b] for a, b in pairs)
        should = len({int(b) for _, b in pairs})
        recall = 1 - kept_both / max(1, len(pairs))
        table.add_row(
            f"{threshold:g}",
            f"{rules.bands} x {rules.rows}",
            f"{len(pairs):,}",
            f"{should:,}",
            f"{int(gone.sum()):,}",
            f"{recall:.4f}",
            f"{right / max(1, int(gone.sum())):.4f}",
            f"{LEAST_RECALL:g}, {PRECISION:g}",
        )
    Console().print(table)


@numba.njit
def list_true_pairs(flat: NDArray[np.uint64], ends: NDArray[np.int64], threshold: float) -> NDArray[np.int64]:
    found = []
    sizes = ends[1:] - ends[:-1]
    for later in range(len(sizes)):
        for earlier in range(later):
            small, large = min(sizes[later], sizes[earlier]), max(sizes[later], sizes[earlier])
            if small and small >= threshold * large and measure_similarity(flat, ends, later, earlier) >= threshold:
                found.append((earlier, later))
    pairs = np.empty((len(found), 2), np.int64)
    for i, (earlier, later) in enumerate(found):
        pairs[i, 0], pairs[i, 1] = earlier, later
    return pairs


if __name__ == "__main__":
    main()
