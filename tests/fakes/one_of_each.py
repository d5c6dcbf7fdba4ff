"""A small run of every task: its data and its config."""

from pathlib import Path
from typing import Any

from orchestrator.config.run import RunConfig
from tests.fakes.changes import EVERYTHING
from tests.fakes.coloured_pictures import write_pictures
from tests.fakes.shards import write_texts
from tests.fakes.small_runs import VIT, picture_config, small_config

TASKS = ("causal_lm", "image_classification", "changed_pictures")
PLAIN = {"name": "sgd", "lr": 1.0, "weight_decay": 0.0}


def write_data(task: str, folder: Path) -> None:
    if task != "causal_lm":
        write_pictures(folder / "data" / task)
        return
    words = [f"w{i}" for i in range(40)]
    for shard in range(3):
        texts = {f"t{i}": " ".join(words[(i * 7 + j * (shard + 3)) % 40] for j in range(60)) for i in range(12)}
        write_texts(folder / "data" / task / f"{shard}.tar", texts)


def config_of(task: str, folder: Path, stage: int, train: dict[str, Any]) -> RunConfig:
    sections: dict[str, Any] = {
        "optim": PLAIN,
        "train": train,
        "evaluate": {"every_steps": 1},
        "data": {"train": [{"path": str(folder / "data" / task)}], "work": str(folder / "work" / task)},
    }
    if task == "image_classification":
        return picture_config(stage=stage, **sections)
    if task == "changed_pictures":
        sections["data"] |= {"augment": EVERYTHING, "mixup": {"alpha": 1.0}}
        return picture_config(VIT | {"image_size": 8, "patch_size": 4}, stage=stage, **sections)
    return small_config(stage=stage, **sections)
