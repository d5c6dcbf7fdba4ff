"""The fragments of step 0 of a fine-tuning: the safetensors files of a local transformers directory.

Nothing is loaded whole: each rank reads the byte ranges of what it holds."""

import json
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from orchestrator.checkpoint.fragments import MASTER, VALUE
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import DataError
from orchestrator.train.models.build import build_model
from orchestrator.train.models.tensors import own_tensors, tied_names

INDEX_FILE, SINGLE_FILE = "model.safetensors.index.json", "model.safetensors"


class PretrainedWeights:
    """A source of fragments. Every tensor must be there: by its name, a tied one, or without the base prefix."""

    def __init__(self, config: RunConfig, vocab_size: int | None) -> None:
        self.folder = Path(str(config.model.pretrained))
        with torch.device("meta"):
            model: Any = build_model(config, vocab_size)
        self._tied = tied_names(model)
        self._tensors = dict(own_tensors(model))
        self._files = _list_tensors(self.folder)
        self._stored = {name: self._find(name, f"{model.base_model_prefix}.") for name in self._tensors}
        self._open: dict[str, Any] = {}
        self._check_all()

    def states(self, name: str) -> tuple[str, ...]:
        tensor = self._tensors.get(self._tied.get(name, name))
        if tensor is None:
            return ()
        return (MASTER if tensor.requires_grad else VALUE,)

    def read(self, name: str, state: str, start: int, count: int) -> torch.Tensor:
        name = self._tied.get(name, name)
        if state not in self.states(name):
            raise KeyError(f"{name} has no state {state!r} at step 0")
        tensor, stored = self._tensors[name], self._slice(self._stored[name])
        if not tensor.ndim:
            return torch.as_tensor(stored[...], dtype=tensor.dtype).reshape(1)[start : start + count]
        row = max(1, prod(tensor.shape[1:]))
        first, stop = start // row, -(-(start + count) // row)
        rows: torch.Tensor = stored[first:stop]
        return rows.flatten()[start - first * row :][:count].to(tensor.dtype)

    def scalars(self, name: str) -> dict[str, float]:  # noqa: ARG002 - a FragmentSource; no update has been made yet
        return {}

    def engine(self) -> dict[str, float]:
        return {}

    def _find(self, name: str, prefix: str) -> str:
        aliases = [name, *(alias for alias, first in self._tied.items() if first == name)]
        stored = [*aliases, *(alias.removeprefix(prefix) for alias in aliases)]
        return next((candidate for candidate in stored if candidate in self._files), "")

    def _slice(self, stored: str) -> Any:
        file = self._files[stored]
        if file not in self._open:
            self._open[file] = _open_file(self.folder / file)
        return self._open[file].get_slice(stored)

    def _check_all(self) -> None:
        missing = [name for name, stored in self._stored.items() if not stored]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(self._stored)} tensors of the model are not there, for example {missing[0]}",
                where=f"model.pretrained {self.folder}",
                remedy="save the directory again with save_pretrained of a current transformers",
            )
        for name, tensor in self._tensors.items():
            shape = tuple(self._slice(self._stored[name]).get_shape())
            if shape != tuple(tensor.shape):
                raise DataError(
                    f"{name} has shape {shape} there, the model needs {tuple(tensor.shape)}",
                    where=f"model.pretrained {self.folder}",
                    remedy="config.json and the safetensors files do not belong together",
                )


def _list_tensors(folder: Path) -> dict[str, str]:
    """Tensor name -> file."""
    if (folder / INDEX_FILE).is_file():
        try:
            return dict(json.loads((folder / INDEX_FILE).read_bytes())["weight_map"])
        except (ValueError, KeyError) as error:
            raise DataError(f"not an index of safetensors files: {error!r}", where=str(folder / INDEX_FILE)) from error
    if (folder / SINGLE_FILE).is_file():
        return dict.fromkeys(_open_file(folder / SINGLE_FILE).keys(), SINGLE_FILE)
    raise DataError(
        f"neither {SINGLE_FILE} nor {INDEX_FILE} is there",
        where=f"model.pretrained {folder}",
        remedy="save the model with save_pretrained; other formats may hold code and are not read",
    )


def _open_file(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot be read as safetensors: {error}", where=str(path)) from error
