"""A small run of every task: its data and its config."""

from pathlib import Path
from typing import Any

from orchestrator.config.run import RunConfig
from tests.fakes.changes import EVERYTHING
from tests.fakes.coloured_pictures import write_pictures
from tests.fakes.shards import write_tar, write_texts
from tests.fakes.small_runs import VIT, picture_config, small_config
from tests.fakes.tables import make_row, table_config, write_rows

PICTURES = ("image_classification", "changed_pictures")
TABLES = ("tabular_classification", "tabular_regression")
TASKS = ("causal_lm", "text_classification", *PICTURES, *TABLES)
PLAIN = {"name": "sgd", "lr": 1.0, "weight_decay": 0.0}
RNN = {"rnn": {"kind": "gru", "embedding": 12, "hidden": 16}}
MLP = {"linear": None, "mlp": {"hidden": [8], "activation": "tanh"}}
TEXTS = {"text": {"members": ["txt"]}, "label": {"members": ["cls"]}}


def write_data(task: str, folder: Path) -> None:
    data = folder / task / "data"
    for shard in range(3):
        if task in TABLES:
            write_rows(data / f"{shard}.tar", [make_row(shard * 12 + number) for number in range(12)])
        elif task == "text_classification":
            texts = {f"t{i:02d}": (tell(i, shard), str(i % 3)) for i in range(12)}
            members = [
                (f"{key}.{end}", text.encode())
                for key, pair in texts.items()
                for end, text in zip(("txt", "cls"), pair, strict=True)
            ]
            write_tar(data / f"{shard}.tar", members)
        elif task == "causal_lm":
            write_texts(data / f"{shard}.tar", {f"t{i}": tell(i, shard) for i in range(12)})
    if task in PICTURES:
        write_pictures(data)


def tell(number: int, shard: int) -> str:
    """Texts of different lengths."""
    return " ".join(f"w{(number * 7 + place * (shard + 3)) % 40}" for place in range(20 + 4 * number))


def config_of(task: str, folder: Path, stage: int, train: dict[str, Any]) -> RunConfig:
    root = folder / task
    sections: dict[str, Any] = {
        "optim": PLAIN,
        "train": train,
        "evaluate": {"every_steps": 1},
        "data": {"train": [{"path": str(root / "data")}], "work": str(root / "work"), "split": {"validation": 0.2}},
    }
    if task in TABLES:
        number = {"name": task, "classes": None} if task == "tabular_regression" else {"name": task}
        target = {"target": "size", "columns": ["age"]} if task == "tabular_regression" else None
        zero = {"zero_optimization": {"stage": stage, "reduce_bucket_size": 100_000}}
        return table_config(root, target, task=number, model=MLP, deepspeed=zero, cluster={"device": "cpu"}, **sections)
    if task == "text_classification":
        told = {"name": task, "classes": 3, "seq_len": 64}
        small = small_config(stage=stage, **sections).model_dump(mode="json", exclude_unset=True)
        small["data"] |= {"fields": TEXTS}
        return RunConfig.model_validate(small | {"task": told, "model": RNN})
    if task == "image_classification":
        return picture_config(stage=stage, **sections)
    if task == "changed_pictures":
        sections["data"] |= {"augment": EVERYTHING, "mixup": {"alpha": 1.0}}
        return picture_config(VIT | {"image_size": 8, "patch_size": 4}, stage=stage, **sections)
    return small_config(stage=stage, **sections)
