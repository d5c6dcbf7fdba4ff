"""Tokenising a shard as prepare does, from tar to published token sidecar, against bare encode_batch of the same texts.

Both in one process with all its threads, in turn; the bare call has the texts in memory already and forgets the ids.
The documents are the quickstart's, the tokenizer is trained on them. Run:

    python benchmarks/tokens.py --rounds 5
"""

import argparse
import shutil
import tempfile
import time
from statistics import median

from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from orchestrator.config.run import RunConfig
from orchestrator.core.mapping import run_serially, tell_nobody
from orchestrator.data.shards.index import index_shard
from orchestrator.prepare.plan import make_demos, prepare_steps
from orchestrator.prepare.run import prepare
from orchestrator.prepare.shard import ShardJob, prepare_shard
from orchestrator.prepare.text import read_kept
from orchestrator.storage.stores import open_stores

ASKED = 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tokens-") as folder:
        config = RunConfig.model_validate(
            {
                "name": "bench",
                "data": {"train": [{"path": f"{folder}/demo", "demo": "text"}], "work": f"{folder}/work"},
                "prepare": {"tokens": {"train_bpe": 8192}},
                "model": {"transformers": {"model_type": "llama"}},
                "train": {"steps": 1, "global_batch": 1},
            }
        )
        make_demos(config.data)
        manifest = prepare(config, run_serially, tell_nobody)
        steps, tokenizer = prepare_steps(config), Tokenizer.from_file(manifest.tokenizer.path)
        stores = open_stores(steps.stores)
        jobs = [
            ShardJob(
                shard=shard,
                source_name=steps.dataset.source_names[0],
                work=steps.work.root,
                stores=steps.stores,
                rules=steps.rules,
                tokenizer=manifest.tokenizer,
            )
            for shard in steps.dataset.shards
        ]
        texts = [
            read_kept(job.shard, index_shard(job.shard, job.work, "fail", stores), job.rules, stores, None, ()).texts
            for job in jobs
        ]
        tokens = int(sum(manifest.totals(split).sum() for split in ("train", "validation", "test")))
        own, bare = [], []
        for _ in range(options.rounds):
            shutil.rmtree(steps.work.root / "prepared")
            began = time.perf_counter()
            for job in jobs:
                prepare_shard(job)
            own.append(time.perf_counter() - began)
            began = time.perf_counter()
            for some in texts:
                tokenizer.encode_batch(some, add_special_tokens=False)
            bare.append(time.perf_counter() - began)
    show(tokens, sum(map(len, (text for some in texts for text in some))), own, bare)


def show(tokens: int, characters: int, own: list[float], bare: list[float]) -> None:
    table = Table(title=f"{tokens:,} tokens of {characters:,} characters", title_justify="left")
    for heading in ("way", "million tokens/s, median", "least", "most"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for name, seconds in (("prepare", own), ("encode_batch", bare)):
        speeds = [tokens / one / 1e6 for one in seconds]
        table.add_row(name, *(f"{speed:.2f}" for speed in (median(speeds), min(speeds), max(speeds))))
    table.add_row("ratio", f"{median(bare) / median(own):.2f}", "", f"asked {ASKED}")
    Console().print(table)


if __name__ == "__main__":
    main()
