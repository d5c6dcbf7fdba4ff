"""Tar shards and configs for tests of the data corridor, written by the standard library alone."""

import io
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from orchestrator.config.run import RunConfig
from orchestrator.storage.stores import Stores, StoreSettings

LOCAL = Stores(StoreSettings())


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], tar_format: int = tarfile.USTAR_FORMAT) -> Path:
    """A tar of (name, bytes) in the given order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_texts(path: Path, texts: dict[str, str]) -> Path:
    """A shard of key -> text."""
    return write_tar(path, [(f"{key}.txt", text.encode()) for key, text in texts.items()])


def write_dataset(folder: Path, num_shards: int, documents: int = 5, first: int = 0) -> Path:
    """Shards of different texts; the same arguments give the same texts."""
    for shard in range(first, first + num_shards):
        texts = {f"d{i:03d}": f"shard {shard} document {i} " + "word " * (shard % 7 + i) for i in range(documents)}
        write_texts(folder / f"{shard:04d}.tar", texts)
    return folder


def make_config(root: Path, data: dict[str, Any] | None = None, tokens: dict[str, Any] | None = None) -> RunConfig:
    """A config whose data lies in root/data and whose work place is root/work."""
    section = {"train": [{"path": str(root / "data")}], "work": str(root / "work"), "segment_shards": 3, **(data or {})}
    return RunConfig.model_validate(
        {
            "name": "test",
            "data": section,
            "prepare": {"tokens": tokens or {"train_bpe": 300}},
            "model": {"transformers": {"model_type": "llama"}},
            "train": {"steps": 1, "global_batch": 1},
        }
    )


def sample_config(
    root: Path, fields: dict[str, Any], data: dict[str, Any] | None = None, **sections: dict[str, Any]
) -> RunConfig:
    """As make_config, of a run that is fed samples as they are."""
    section = {
        "train": [{"path": str(root / "data")}],
        "work": str(root / "work"),
        "segment_shards": 3,
        "fields": fields,
    }
    return RunConfig.model_validate(
        {
            "name": "test",
            "data": section | (data or {}),
            "task": {"name": "image_classification"},
            "model": {"transformers": {"model_type": "resnet"}},
            "train": {"steps": 1, "global_batch": 1},
            **sections,
        }
    )


def run_backwards(function: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterator[Any]:
    """Every job twice and in reverse order, as lost and repeated tasks would be."""
    jobs = list(jobs)
    for job in reversed(jobs):
        function(job)
    return (function(job) for job in reversed(jobs))


def read_tree(folder: Path) -> dict[str, bytes]:
    """Every file's bytes by relative path."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
