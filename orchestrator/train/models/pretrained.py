"""The fragments of step 0 of a fine-tuning: safetensors files, of a local transformers directory or of any module.

Nothing is loaded whole: each rank reads the byte ranges of what it holds. What the files do not bring, initial.py makes
where the config lets it begin anew."""

import json
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel

from orchestrator.checkpoint.fragments import FragmentSource
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import DataError
from orchestrator.train.models.conversions import Conversion, find_conversions
from orchestrator.train.models.tensors import own_tensors, tied_names

INDEX_FILE, SINGLE_FILE = "model.safetensors.index.json", "model.safetensors"
ADAPTERS, BESIDE = ".lora_", ".base_layer."  # in the names that peft gives: of adapters, and of what they stand beside
SHOWN = 3


class PretrainedWeights:
    """A source of fragments: what is stored, and from `initial` what begins anew."""

    def __init__(self, stored: "StoredTensors", initial: FragmentSource) -> None:
        self._stored, self._initial = stored, initial

    def states(self, name: str) -> tuple[str, ...]:
        return self._initial.states(name)

    def read(self, name: str, state: str, start: int, count: int) -> torch.Tensor:
        if state not in self.states(name) or name not in self._stored:
            return self._initial.read(name, state, start, count)
        return self._stored.read(name, start, count)

    def scalars(self, name: str) -> dict[str, float]:  # noqa: ARG002 - a FragmentSource; no update has been made yet
        return {}

    def engine(self) -> dict[str, float]:
        return {}


class StoredTensors:
    """Which tensors of a model the config's files bring. One is found by its name, a tied one, or without the base
    prefix.

    `begins_anew` names those that are not there, or there in another shape: an error unless model.new_head is set.
    Adapters of model.lora begin anew in any case."""

    def __init__(self, config: RunConfig, model: nn.Module) -> None:
        key = "model.pretrained" if config.model.pretrained else "model.weights"
        path = Path(str(config.model.pretrained or config.model.weights))
        self._where = f"{key} {path}"
        self._tied = tied_names(model)
        self._tensors = dict(own_tensors(model))
        self._files = _list_tensors(path, self._where)
        self._open: dict[Path, Any] = {}
        prefix = f"{model.base_model_prefix}." if isinstance(model, PreTrainedModel) else ""
        found = {name: self._find(name, prefix) for name in self._tensors if ADAPTERS not in name}
        self._made = self._find_made(model) if not all(found.values()) else {}
        self._latest: tuple[str, torch.Tensor] = ("", torch.empty(0))  # the last that was made of stored ones
        wanting = {name: reason for name, stored in found.items() if (reason := self._compare(name, stored))}
        if wanting and (len(wanting) == len(found) or not config.model.new_head):
            raise self._lacking(wanting, len(found))
        self._names = {name: stored for name, stored in found.items() if name not in wanting}
        self.begins_anew = tuple(wanting)

    def __contains__(self, name: str) -> bool:
        return self._tied.get(name, name) in self._names

    def read(self, name: str, start: int, count: int) -> torch.Tensor:
        """`count` elements of the flattened tensor from `start` on."""
        name = self._tied.get(name, name)
        if not self._names[name]:
            return self._make(name)[start : start + count].to(self._tensors[name].dtype)
        tensor, stored = self._tensors[name], self._slice(self._names[name])
        if not tensor.ndim:
            return torch.as_tensor(stored[...], dtype=tensor.dtype).reshape(1)[start : start + count]
        row = max(1, prod(tensor.shape[1:]))
        first, stop = start // row, -(-(start + count) // row)
        rows: torch.Tensor = stored[first:stop]
        return rows.flatten()[start - first * row :][:count].to(tensor.dtype)

    def _find(self, name: str, prefix: str) -> str:
        aliases = [name, *(alias for alias, first in self._tied.items() if first == name)]
        aliases = [alias.replace(BESIDE, ".") for alias in aliases]
        stored = [*aliases, *(alias.removeprefix(prefix) for alias in aliases)]
        return next((candidate for candidate in stored if candidate in self._files), "")

    def _find_made(self, model: nn.Module) -> dict[str, tuple[Conversion, tuple[int, ...]]]:
        """What can be made of tensors that are stored otherwise, with its shape."""
        if not isinstance(model, PreTrainedModel):
            return {}
        plain = [name.replace(BESIDE, ".") for name in self._tensors]
        found: dict[str, tuple[Conversion, tuple[int, ...]]] = {}
        for conversion in find_conversions(model, plain, self._files):
            try:
                made = conversion.make(self._outline)
            except (RuntimeError, LookupError, ValueError):  # a piece is missing: so is what it would be part of
                continue
            found |= {name: (conversion, tuple(tensor.shape)) for name, tensor in made.items()}
        return found

    def _outline(self, stored: str) -> torch.Tensor:
        return torch.empty(self._slice(stored).get_shape(), device="meta")

    def _make(self, name: str) -> torch.Tensor:
        """The whole tensor, flattened: it is put together of others."""
        if self._latest[0] != name:
            plain = name.replace(BESIDE, ".")
            made = self._made[plain][0].make(lambda stored: torch.as_tensor(self._slice(stored)[...]))
            self._latest = (name, made[plain].flatten())
        return self._latest[1]

    def _slice(self, stored: str) -> Any:
        file = self._files[stored]
        if file not in self._open:
            self._open[file] = _open_file(file)
        return self._open[file].get_slice(stored)

    def _compare(self, name: str, stored: str) -> str:
        """Why a stored tensor cannot be the model's; nothing when it can."""
        plain = name.replace(BESIDE, ".")
        if not stored and plain not in self._made:
            return f"{name} is not there"
        shape = tuple(self._slice(stored).get_shape()) if stored else self._made[plain][1]
        wanted = tuple(self._tensors[name].shape)
        return f"{name} has shape {shape} there, the model needs {wanted}" if shape != wanted else ""

    def _lacking(self, wanting: dict[str, str], of: int) -> DataError:
        reasons = "; ".join(list(wanting.values())[:SHOWN])
        anew = "" if len(wanting) == of else "model.new_head=true lets them begin anew, as a new head must; otherwise "
        return DataError(
            f"{len(wanting)} of {of} tensors of the model do not come from there: {reasons}",
            where=self._where,
            remedy=f"{anew}correct the model section, or the files: they hold "
            + ", ".join(list(self._files)[:SHOWN])
            + (", ..." if len(self._files) > SHOWN else ""),
        )


def _list_tensors(path: Path, where: str) -> dict[str, Path]:
    """Tensor name -> file. A folder has an index, the usual single file, or any files of its own."""
    if path.is_file():
        return dict.fromkeys(_open_file(path).keys(), path)
    index = path / INDEX_FILE
    if index.is_file():
        try:
            return {name: path / file for name, file in json.loads(index.read_bytes())["weight_map"].items()}
        except (ValueError, KeyError, AttributeError) as error:
            raise DataError(f"not an index of safetensors files: {error!r}", where=str(index)) from error
    single = path / SINGLE_FILE
    files = [single] if single.is_file() else sorted(path.glob("*.safetensors"))
    if not files:
        raise DataError(
            "there is no safetensors file",
            where=where,
            remedy="save the weights with safetensors or save_pretrained; other formats may hold code and are not read",
        )
    return {name: file for file in files for name in _open_file(file).keys()}  # noqa: SIM118 - no mapping


def _open_file(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot be read as safetensors: {error}", where=str(path)) from error
