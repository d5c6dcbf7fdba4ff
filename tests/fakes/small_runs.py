"""Small runs for the trainer's tests: configs, a corpus, a helm and a sink that write down what they see."""

import fcntl
from pathlib import Path
from typing import Any

from torch.distributed import Store

from orchestrator.checkpoint.reader import StateReader
from orchestrator.checkpoint.shelf import Address
from orchestrator.checkpoint.vault import Vault
from orchestrator.config.run import RunConfig
from orchestrator.core.clock import SystemClock
from orchestrator.core.errors import StoreDown
from orchestrator.core.news import HolesNews, News, StepNews, VoidedNews
from orchestrator.core.words import Word
from orchestrator.storage.lines import LineFile
from orchestrator.tracking.rows import skip_rows
from orchestrator.train.job import Outcome, TrainJob
from orchestrator.train.loop import train
from orchestrator.train.slices import micro_batches_needed
from tests.fakes.corpus import FakeManifest, make_corpus
from tests.fakes.pictures import FIELDS
from tests.fakes.tiny_model import in_world

LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
RESNET = {
    "model_type": "resnet",
    "num_labels": 3,
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
}
VIT = {
    "model_type": "vit",
    "num_labels": 3,
    "image_size": 16,
    "patch_size": 8,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
VOCAB = 300


def small_config(model: dict[str, Any] | None = None, *, stage: int = 0, **sections: Any) -> RunConfig:
    """A config of everything small; `sections` are laid over whole sections or top keys."""
    value: dict[str, Any] = {
        "name": "small",
        "seed": 5,
        "data": {
            "train": [{"path": "data/source0"}],
            "split": {"validation": 0.1},
            "window_samples": 64,
            "run_samples": 1,
            "lanes": 2,
        },
        "prepare": {"tokens": {"train_bpe": VOCAB}},
        "task": {"seq_len": 16},
        "model": {"transformers": LLAMA if model is None else model},
        "optim": {"lr": 1e-2, "weight_decay": 0.1},
        "train": {"steps": 6, "global_batch": 10, "precision": "fp32", "clip_norm": 1.0},
        "deepspeed": {"zero_optimization": {"stage": stage, "reduce_bucket_size": 100_000}},
        "cluster": {"device": "cpu"},
    }
    for name, section in sections.items():
        value[name] = value[name] | section if isinstance(section, dict) and name in value else section
    return RunConfig.model_validate(value)


def picture_config(model: dict[str, Any] | None = None, *, stage: int = 0, **sections: Any) -> RunConfig:
    """A config of everything small that tells pictures apart."""
    small = small_config(stage=stage).model_dump(mode="json", exclude_unset=True)
    small |= {"task": {"name": "image_classification"}, "model": {"transformers": VIT if model is None else model}}
    del small["prepare"]
    small["data"] |= {"fields": FIELDS}
    for name, section in sections.items():
        small[name] = small[name] | section if isinstance(section, dict) and name in small else section
    return RunConfig.model_validate(small)


class SmallManifest(FakeManifest):
    """A corpus with a chain of one link for each segment, and few enough words to learn something."""

    @classmethod
    def make(cls) -> "SmallManifest":
        made = make_corpus(3, shards_by_segment=((4,), (4,)), most_documents=12, most_tokens=60)
        for shard in made.shards:
            shard.documents = [document % 20 for document in shard.documents]
        return cls(made.shards, made.segments, made.source_names)

    @property
    def ids(self) -> list[str]:
        return [f"segment{number}" for number in range(len(self.segments))]

    def check_prefix(self, ids: list[str]) -> None:
        assert self.ids[: len(ids)] == ids


class StoreIsDown(SmallManifest):
    """The store of one shard stays away."""

    away: int = -1

    def tokens(self, ordinal: int) -> Any:
        if ordinal == self.away:
            raise StoreDown("HTTP 503 for 900 s", where="s3://bucket", remedy="resume when it is back")
        return super().tokens(ordinal)


class RecordingSink:
    """Remembers all news; when flushed it writes down skips, as the scribe would, beside the sinks of other ranks."""

    def __init__(self, skips_file: Path) -> None:
        self.news: list[News] = []
        self._skips_file = skips_file
        self._untold: list[HolesNews | VoidedNews] = []
        self.told = self.settled = 0
        self.is_slow = False  # nothing is on disk before it is flushed
        self.steps_too_early: list[int] = []  # told before all that was skipped was on disk

    def tell(self, news: News) -> None:
        self.news.append(news)
        self.told += 1
        if isinstance(news, StepNews) and self._untold:
            self.steps_too_early.append(news.step)
        if isinstance(news, HolesNews | VoidedNews):
            self._untold.append(news)
        if not self._untold and not self.is_slow:
            self.settled = self.told

    def flush(self) -> None:
        self.settled = self.told
        if not self._untold:
            return
        with self._skips_file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with LineFile(self._skips_file, head={"format": 1}) as file:
                file.append([row for news in self._untold for row in skip_rows(news)])
        self._untold.clear()

    def of(self, kind: type[News]) -> list[Any]:
        return [news for news in self.news if isinstance(news, kind)]

    def rows(self) -> list[dict[str, Any]]:
        """What does not depend on the machine's speed of each step."""
        timed = {"step_s", "pause_s", "snapshots_skipped", "data_wait_s", "decode_s"}
        timed |= {"tokens_per_s", "samples_per_s", "memory_peak_gb"}
        steps = (news for news in self.news if isinstance(news, StepNews))
        return [{"step": s.step, **{k: v for k, v in s.metrics.items() if k not in timed}, **s.ledger} for s in steps]


class ScriptedHelm:
    """Says its word from the given step on; writes down the phases shown."""

    def __init__(self, stop_at: int | None = None, word: Word = Word.STOP) -> None:
        self.shown: list[tuple[int, str]] = []
        self._stop_at, self._word = stop_at, word

    def word(self) -> Word:
        step = self.shown[-1][0]
        return self._word if self._stop_at is not None and step >= self._stop_at else Word.GO_ON

    def show(self, step: int, phase: str) -> None:
        self.shown.append((step, phase))

    def show_busy(self, seconds: float) -> None:
        self.busy_s = seconds


def train_small(
    rank: int,
    size: int,
    store: Store,
    config: RunConfig,
    folder: Path,
    *,
    generation: int = 1,
    start: Address | StateReader | None = None,
    micro_batch: int = 3,
    helm: ScriptedHelm | None = None,
    manifest: Any = None,
    vault: Vault | None = None,
    **fields: Any,
) -> tuple[Outcome, RecordingSink]:
    """One rank's whole part in a run: join, train, leave. `folder` names the run on the store, too; `fields` are others
    of the job."""
    skips_file = folder.parent / f"{folder.name}-skips.jsonl"
    sink = RecordingSink(skips_file)
    with in_world(rank, size, store, f"{folder.name}-{size}-{generation}") as world:
        job = TrainJob(
            config=config,
            manifest=manifest or SmallManifest.make(),  # all that the trainer needs of one
            world=world,
            generation=generation,
            device="cpu",
            micro_batch=micro_batch,
            accumulation=micro_batches_needed(config.train.global_batch, size, micro_batch),
            checkpoints=folder,
            skips_file=skips_file,
            start=start,
            sink=sink,
            helm=helm or ScriptedHelm(),
            clock=SystemClock(),
            vault=vault,
            **fields,
        )
        return train(job), sink
