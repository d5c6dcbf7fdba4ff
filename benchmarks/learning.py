"""What the small configs learn, beside others on the same samples: scikit-learn's models on the same rows of the same
splits, and for texts a plain PyTorch loop that begins with the same weights and is fed the same batches.

Each config is run by `longhaul run` as it stands and measured by `longhaul evaluate`. The share that
breast-cancer-logistic.yaml keeps for its test was chosen after others had been seen, so its number says something
beside scikit-learn's only, and over folds. Prints a table and exits with 1 where a number is missed. Run, on a quiet
machine:

    python benchmarks/learning.py
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC
from torch import nn
from torch.nn import functional

from orchestrator.checkpoint.fragments import MASTER
from orchestrator.config.load import load_config
from orchestrator.config.run import RunConfig
from orchestrator.core.words import World
from orchestrator.data.feeding.feed import open_batches
from orchestrator.data.ordering.order import Order, SlotOrder, ValidationOrder
from orchestrator.data.ordering.skips import Skips
from orchestrator.data.shards.manifest import Manifest
from orchestrator.train.models.initial import initial_source

CONFIGS = Path(__file__).parent.parent / "configs"
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Learned:
    """A finished run: its data, its log, and how long it took from the first step to the end."""

    folder: Path
    config: RunConfig
    manifest: Manifest
    rows: list[dict[str, Any]]
    command_s: float

    def measure(self, split: str, metric: str) -> float:
        told = longhaul("evaluate", self.folder.name, "--split", split, "--json", folder=self.folder.parent.parent)
        return float(json.loads(told)["metrics"][metric])

    def read(self, split: str) -> Arrays:
        """The samples of a split as ranks are fed them, each once."""
        order = ValidationOrder.of(self.config, self.manifest, split)
        made = [self.feed(order, split, step) for step in range(order.num_batches)]
        counted = np.concatenate([fields["weights"] for fields in made]) > 0
        return {name: np.concatenate([fields[name] for fields in made])[counted] for name in made[0]}

    def feed(self, order: SlotOrder, split: str, step: int) -> Arrays:
        batches = open_batches(self.config, self.manifest, order, split)
        try:
            return batches.make(step, World.flat(0, 1), Skips()).fields
        finally:
            batches.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class Number:
    """What was asked and what came of it."""

    config: str
    what: str
    ours: float
    peer: float
    peer_name: str
    asked: str
    holds: bool
    command_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", choices=[*MEASURES, []], help="names of configs; all when absent")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="learning-") as folder:
        numbers = [MEASURES[name](learn(name, Path(folder))) for name in options.only or MEASURES]
    show(numbers)
    sys.exit(0 if all(number.holds for number in numbers) else 1)


def learn(name: str, folder: Path) -> Learned:
    began = time.monotonic()
    longhaul("run", str(CONFIGS / f"{name}.yaml"), "tracking.wandb.mode=off", folder=folder)
    run = folder / "runs" / name
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return Learned(
        folder=run,
        config=load_config(run / "config.yaml").config,
        manifest=Manifest.load(run / "manifest.json"),
        rows=[json.loads(line) for line in lines],
        command_s=time.monotonic() - began,
    )


def longhaul(*arguments: str, folder: Path) -> str:
    command = [sys.executable, "-m", "launch.cli", *arguments]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout


# ---- what is asked of each config ----


def measure_digits(run: Learned) -> Number:
    train, test = run.read("train"), run.read("test")
    peer = SVC().fit(train["image"].reshape(len(train["label"]), -1) / 255.0, train["label"])
    theirs = peer.score(test["image"].reshape(len(test["label"]), -1) / 255.0, test["label"])
    ours = run.measure("test", "accuracy")
    times = [row["t"] for row in run.rows if "step_s" in row]
    seconds = times[-1] - times[0]
    return Number(
        config="digits-cnn",
        what=f"accuracy, {seconds:.0f} s",
        ours=ours,
        peer=float(theirs),
        peer_name="SVC",
        asked=">= 0.97, < 60 s",
        holds=ours >= 0.97 and seconds < 60,
        command_s=run.command_s,
    )


def measure_breast_cancer(run: Learned) -> Number:
    train, test = run.read("train"), run.read("test")
    peer = LogisticRegression(max_iter=1000).fit(train["features"], train["target"])
    ours = run.measure("test", "roc_auc")
    return Number(
        config="breast-cancer-logistic",
        what="ROC-AUC",
        ours=ours,
        peer=float(roc_auc_score(test["target"], peer.decision_function(test["features"]))),
        peer_name="LogisticRegression",
        asked=">= 0.99",
        holds=ours >= 0.99,
        command_s=run.command_s,
    )


def measure_diabetes(run: Learned) -> Number:
    train, test = run.read("train"), run.read("test")
    theirs = LinearRegression().fit(train["features"], train["target"]).score(test["features"], test["target"])
    ours = run.measure("test", "r2")
    return Number(
        config="diabetes-linear",
        what="R2",
        ours=ours,
        peer=float(theirs),
        peer_name="LinearRegression",
        asked="within 0.01",
        holds=abs(ours - theirs) <= 0.01,
        command_s=run.command_s,
    )


def measure_texts(run: Learned) -> Number:
    ours, theirs = run.measure("validation", "loss"), train_plainly(run)
    return Number(
        config="text-classifier-rnn",
        what="validation loss",
        ours=ours,
        peer=theirs,
        peer_name="plain PyTorch loop",
        asked="within 0.01",
        holds=abs(ours - theirs) <= 0.01,
        command_s=run.command_s,
    )


MEASURES: Mapping[str, Callable[[Learned], Number]] = {
    "digits-cnn": measure_digits,
    "breast-cancer-logistic": measure_breast_cancer,
    "diabetes-linear": measure_diabetes,
    "text-classifier-rnn": measure_texts,
}


# ---- the plain loop ----


class PlainReader(nn.Module):
    def __init__(self, vocab_size: int, classes: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding)
        self.recurrent = nn.GRU(embedding, hidden, batch_first=True)
        self.output = nn.Linear(hidden, classes)

    def forward(self, fields: Arrays) -> torch.Tensor:
        tokens, lengths = torch.from_numpy(fields["tokens"]).long(), torch.from_numpy(fields["length"]).long()
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embedding(tokens), lengths, batch_first=True, enforce_sorted=False
        )
        logits: torch.Tensor = self.output(self.recurrent(packed)[1][-1])
        return logits


def train_plainly(run: Learned) -> float:
    """The validation loss of the same model, trained by a loop of a dozen lines."""
    config, section = run.config, run.config.model.rnn
    assert section is not None
    assert config.train.clip_norm is not None
    vocab_size = run.manifest.tokenizer.vocab_size
    model = PlainReader(vocab_size, int(config.task.classes or 0), section.embedding, section.hidden)
    source = initial_source(config, vocab_size)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(source.read(name, MASTER, 0, parameter.numel()).view_as(parameter))
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": matrices, "weight_decay": config.optim.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.optim.lr, betas=config.optim.betas, eps=config.optim.eps)
    order = Order.of(config, run.manifest)
    rates = {row["step"]: row["lr"] for row in run.rows if "lr" in row}
    for step in range(config.train.num_steps):
        fields = run.feed(order, "train", step)
        loss = functional.cross_entropy(model(fields), torch.from_numpy(fields["label"]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), config.train.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = rates[step]
        optimizer.step()
    fields = run.read("validation")
    with torch.no_grad():
        return float(functional.cross_entropy(model(fields), torch.from_numpy(fields["label"])))


def show(numbers: list[Number]) -> None:
    table = Table(title="what the small configs learn", title_justify="left")
    for heading in ("config", "what", "ours", "theirs", "who", "asked", "holds", "command"):
        table.add_column(heading, overflow="fold")
    for one in numbers:
        holds = "yes" if one.holds else "NO"
        values = (f"{one.ours:.4f}", f"{one.peer:.4f}", one.peer_name, one.asked, holds, f"{one.command_s:.0f} s")
        table.add_row(one.config, one.what, *values)
    Console().print(table)


if __name__ == "__main__":
    main()
