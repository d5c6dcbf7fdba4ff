"""Writes safetensors files as transformers names them, a stretch at a time: the model need not fit into memory.

Comes after leaving.py, which says what leaves; no installed library writes such a file without having all of it."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import split_torch_state_dict_into_shards

from orchestrator.checkpoint.layout import DTYPES, dtype_name
from orchestrator.storage.publish import publish_bytes
from orchestrator.train.models.pretrained import INDEX_FILE


class Leaving(NamedTuple):
    """A tensor on its way out: `read` gives its values in order, in as many pieces as it likes."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Iterator[torch.Tensor]]

    @property
    def size_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def write_shards(folder: Path, tensors: Sequence[Leaving], shard_bytes: int) -> int:
    """One file, or several with an index; the bytes of all."""
    named = {tensor.name: tensor for tensor in tensors}
    shapes = {name: torch.empty(one.shape, dtype=one.dtype, device="meta") for name, one in named.items()}
    split = split_torch_state_dict_into_shards(shapes, max_shard_size=shard_bytes)
    for file, names in split.filename_to_tensors.items():
        write_file(folder / file, [named[name] for name in names])
    if split.is_sharded:
        parameters = sum(prod(one.shape) for one in tensors)
        metadata = {"total_parameters": parameters, **split.metadata}
        index = {"metadata": metadata, "weight_map": split.tensor_to_filename}
        publish_bytes(folder / INDEX_FILE, (json.dumps(index, indent=2, sort_keys=True) + "\n").encode())
    return sum(one.size_bytes for one in tensors)


def write_file(path: Path, tensors: Sequence[Leaving]) -> None:
    """One safetensors file, on disk when this returns."""
    ordered = sorted(tensors, key=lambda one: -one.dtype.itemsize)  # so that all values are aligned
    with path.open("wb") as file:
        file.write(_make_header(ordered))
        for tensor in ordered:
            for values in tensor.read():
                file.write(values.to(tensor.dtype).contiguous().flatten().view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())


def _make_header(tensors: Sequence[Leaving]) -> bytes:
    fields: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.size_bytes
        dtype = DTYPES[dtype_name(tensor.dtype)]
        fields[tensor.name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    data = json.dumps(fields, separators=(",", ":")).encode()
    data += b" " * (-len(data) % 8)
    return len(data).to_bytes(8, "little") + data
