"""Real runs through the command line: texts and pictures in tar shards, and one unbroken run of each a session."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import webdataset as wds
import yaml

from tests.fakes.coloured_pictures import CLASSES, write_pictures

if TYPE_CHECKING:
    from tests.integration.fleet import Fleet, Voyage

WORDS = ["the", "sea", "carries", "slow", "freight", "past", "grey", "harbours", "where", "cranes", "unload", "grain"]
STEPS = 24
PICTURE_SHARDS, PICTURES, PICTURE_BATCH = 40, 6, 7  # 2 epochs are 480 samples, of which the last batch has 4
PICTURE_STEPS = 69
BROKEN = (5, 3)  # shard and place of a picture that does not decode


@dataclass(frozen=True)
class Bench:
    """A folder with data and a config; runs commands in it."""

    folder: Path
    config: Path

    def longhaul(
        self, *arguments: str, timeout_s: float = 240.0, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "launch.cli", *arguments]
        variables = environment() | (env or {})
        return subprocess.run(
            command, cwd=self.folder, env=variables, capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{arguments[-1].replace('/', '-')}.log").open("wb")
        command = [sys.executable, "-m", "launch.cli", *arguments]
        with log:
            return subprocess.Popen(command, cwd=self.folder, env=environment(), stdout=log, stderr=log)

    def run(self, name: str, *sets: str) -> subprocess.CompletedProcess[str]:
        return self.longhaul("run", str(self.config), f"name={name}", *sets)

    def path(self, run: str) -> Path:
        return self.folder / "runs" / run

    def rows(self, run: str, file: str = "metrics.jsonl") -> dict[int, dict[str, Any]]:
        """The last row of each step."""
        lines = (self.path(run) / file).read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        return {row["step"]: row for row in rows if "step" in row and "kind" not in row}

    def losses(self, run: str) -> list[float]:
        rows = self.rows(run)
        return [rows[step]["loss"] for step in sorted(rows)]

    def ledger(self, run: str) -> list[tuple[Any, ...]]:
        rows = self.rows(run, "ledger.jsonl")
        return [tuple(rows[s][name] for name in ("order_digest", "set_digest", "count")) for s in sorted(rows)]

    def events(self, run: str, kind: str) -> list[dict[str, Any]]:
        files = sorted((self.path(run) / "events").glob("g*.jsonl"))
        events = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        return [event for event in events if event["event"] == kind]

    def weights(self, run: str) -> dict[str, Any]:
        """Every state of the last checkpoint, whole."""
        from orchestrator.checkpoint.found import list_checkpoints
        from orchestrator.checkpoint.reader import open_checkpoint

        reader = open_checkpoint(list_checkpoints(self.path(run) / "checkpoints")[-1].path)
        whole = {
            f"{name}/{state}": reader.read(name, state, 0, info.numel)
            for name, info in reader.tensors.items()
            for state in reader.states(name)
        }
        reader.close()
        return whole


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "RAY_"))}
    return {**kept, "COLUMNS": "120", "NETRC": "/nonexistent"}


def write_corpus(folder: Path, shards: int = 8, documents: int = 60) -> None:
    """Reproducible text that a small model can learn something from."""
    folder.mkdir(parents=True)
    rng = random.Random(5)
    for shard in range(shards):
        with wds.TarWriter(str(folder / f"text-{shard:03d}.tar"), mtime=0) as writer:
            for i in range(documents):
                text = " ".join(rng.choices(WORDS, k=rng.randrange(1, 160)))
                writer.write({"__key__": f"doc{shard:03d}-{i:04d}", "txt": text, "json": {"n": i}})


def small_config() -> dict[str, Any]:
    model = {
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": True,
    }  # fmt: skip
    return {
        "name": "small",
        "seed": 11,
        "data": {
            "train": [{"path": "shards"}], "split": {"validation": 0.05}, "work": "work", "segment_shards": 3,
            "window_samples": 64, "ledger": "keys",
        },
        "prepare": {"tokens": {"train_bpe": 300}},
        "task": {"name": "causal_lm", "seq_len": 32},
        "model": {"transformers": model},
        "optim": {"lr": 3e-3, "weight_decay": 0.1},
        "schedule": {"name": "cosine", "warmup_steps": 2},
        "train": {"steps": STEPS, "global_batch": 10, "precision": "fp32", "clip_norm": 1.0},
        "evaluate": {"every_steps": 8},
        "deepspeed": {"zero_optimization": {"stage": 2}},
        "cluster": {"ranks_per_node": 2, "cpus_per_rank": 1},
        "checkpoint": {"every_steps": 5},
    }  # fmt: skip


def picture_config() -> dict[str, Any]:
    """Of few samples a window, so that a run comes to new shards all the time."""
    fields = {"image": {"members": ["png"]}, "label": {"members": ["cls"]}}
    data = {
        "train": [{"path": "pictures"}], "work": "work", "segment_shards": 10, "window_samples": 12, "run_samples": 1,
        "lanes": 1, "prefetch_bytes": 1, "fields": fields,
    }  # fmt: skip
    model = {
        "model_type": "vit", "num_labels": CLASSES, "image_size": 16, "patch_size": 8, "hidden_size": 16,
        "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    }  # fmt: skip
    train = {"epochs": 2, "global_batch": PICTURE_BATCH, "precision": "fp32", "clip_norm": 1.0}
    return {
        "name": "pictures",
        "seed": 12,
        "data": data,
        "task": {"name": "image_classification"},
        "model": {"transformers": model},
        "optim": {"lr": 1e-2},
        "train": train,
        "deepspeed": {"zero_optimization": {"stage": 2}},
        "cluster": {"ranks_per_node": 2, "cpus_per_rank": 1},
        "checkpoint": {"every_steps": 10},
    }


@contextmanager
def set_up(folder: Path, config: dict[str, Any]) -> Iterator[Bench]:
    """No process of the folder's runs is left in the end."""
    path = folder / f"{config['name']}.yaml"
    path.write_text(yaml.safe_dump(config))
    yield Bench(folder, path)
    leftovers = family_of(folder)
    for process in leftovers:
        process.kill()
    assert not leftovers, f"processes were left behind: {leftovers}"


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("bench")
    write_corpus(folder / "shards")
    with set_up(folder, small_config()) as bench:
        yield bench


@pytest.fixture(scope="session")
def unbroken(bench: Bench) -> str:
    """A run from start to end with nothing in its way."""
    done = bench.run("unbroken")
    assert done.returncode == 0, done.stdout + done.stderr
    return "unbroken"


@pytest.fixture(scope="module")
def fleet(bench: Bench, request: pytest.FixtureRequest) -> "Iterator[Fleet]":
    """Every module breaks one of its own."""
    from tests.integration.fleet import open_fleet  # which uses what is here

    with open_fleet(bench, request.module.__name__.rpartition(".")[2]) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def calm(fleet: "Fleet") -> "Voyage":
    """What the broken runs of a module are compared with."""
    return fleet.run_calmly()


@pytest.fixture(scope="session")
def picture_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("picture-bench")
    write_pictures(folder / "pictures", shards=PICTURE_SHARDS, pictures=PICTURES, broken=(BROKEN,))
    with set_up(folder, picture_config()) as bench:
        yield bench


@pytest.fixture(scope="session")
def unbroken_pictures(picture_bench: Bench) -> str:
    """A run of pictures from a folder, with nothing in its way but the broken one."""
    done = picture_bench.run("unbroken")
    assert done.returncode == 0, done.stdout + done.stderr
    return "unbroken"


def family_of(folder: Path) -> list[psutil.Process]:
    """Every process of a run below `folder`: command, keeper, Ray, and what Ray started."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            if str(folder) in " ".join(process.cmdline()) or process.cwd() == str(folder):
                found[process.pid] = process
                found |= {child.pid: child for child in process.children(recursive=True)}
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    found.pop(os.getpid(), None)
    return list(found.values())
