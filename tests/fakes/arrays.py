"""Shards of small arrays with labels, for tests of samples that are fed as they are. Cheap to write and to decode."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.config.run import RunConfig
from tests.fakes.shards import sample_config, write_tar

ARRAY_FIELDS = {"values": {"members": ["npy", "bin"]}, "label": {"members": ["cls"]}}
UNDECODABLE = b"these bytes are as they were written, and no array"


def value_of(number: int) -> NDArray[np.float32]:
    """What the n-th sample of a dataset holds."""
    return np.random.default_rng(number).random((2, 3), np.float32)


def write_arrays(folder: Path, num_shards: int, samples: int = 6, broken: tuple[int, ...] = ()) -> Path:
    """Shards of value_of(0), value_of(1), ...; the number is the label, too. Those in `broken` do not decode."""
    for shard in range(num_shards):
        members = []
        for number in range(shard * samples, (shard + 1) * samples):
            file = io.BytesIO()
            np.save(file, value_of(number))
            members.append((f"a{number:04d}.cls", str(number).encode()))
            members.append((f"a{number:04d}.npy", UNDECODABLE if number in broken else file.getvalue()))
        write_tar(folder / f"{shard:04d}.tar", members)
    return folder


def array_config(root: Path, data: dict[str, Any] | None = None, global_batch: int = 8) -> RunConfig:
    """A config that feeds the arrays in root/data; its work place is root/work."""
    train = {"steps": 1, "global_batch": global_batch}
    return sample_config(root, ARRAY_FIELDS, {"run_samples": 1} | (data or {}), train=train)
