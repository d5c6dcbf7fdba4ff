"""What leaves with a model: each of its tensors, from a checkpoint, under the name that others know it by.

Adapters are added to the weights beside which they stand, so what leaves is a plain model. Nothing is read before it is
written (shards.py), and then a stretch at a time, or a tensor where it has to be changed as a whole."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from orchestrator.checkpoint.fragments import MASTER, VALUE, FragmentSource, TensorInfo
from orchestrator.train.exchange.shards import Leaving
from orchestrator.train.models.pretrained import ADAPTERS, BESIDE
from orchestrator.train.models.tensors import own_tensors

STRETCH = 2**20  # elements
ADAPTER = "default"  # peft's name for the only one


class LeavingModel:
    """`model` has no values yet: its parameters are on meta. `dtype` None keeps what the run computed with."""

    def __init__(
        self, model: nn.Module, source: FragmentSource, infos: Mapping[str, TensorInfo], dtype: torch.dtype | None
    ) -> None:
        self._model, self._source, self._infos, self._dtype = model, source, infos, dtype
        self._shapes = {name: tuple(tensor.shape) for name, tensor in own_tensors(model)}
        self._changed: tuple[str, dict[str, torch.Tensor]] = ("", {})  # the last tensor that was changed as a whole

    def tensors(self) -> list[Leaving]:
        """All of them, tied ones once."""
        return [leaving for name in self._shapes if ADAPTERS not in name for leaving in self._of(name)]

    def _of(self, name: str) -> Iterator[Leaving]:
        dtype, shape = self._dtype_of(name), self._shapes[name]
        theirs = self._rename({name: torch.empty(shape, dtype=dtype, device="meta")})
        if list(theirs) == [_plain(name)] and not self._is_adapted(name):
            yield Leaving(_plain(name), shape, dtype, partial(self._read_stretches, name))
            return
        for its_name, tensor in theirs.items():
            yield Leaving(its_name, tuple(tensor.shape), dtype, partial(self._read_changed, name, its_name))

    def _dtype_of(self, name: str) -> torch.dtype:
        info = self._infos[name]
        own: torch.dtype = getattr(torch, info.dtype)
        return self._dtype if self._dtype is not None and info.kind != "buffer" and own.is_floating_point else own

    def _rename(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """As transformers saves them: what it keeps in one tensor for speed may be many in files."""
        plain = {_plain(name): tensor for name, tensor in tensors.items()}
        if not isinstance(self._model, PreTrainedModel):
            return plain
        renamed: dict[str, torch.Tensor] = revert_weight_conversion(self._model, plain)
        return renamed

    # ---- values ----

    def _read(self, name: str, start: int, count: int) -> torch.Tensor:
        known = self._source.states(name)
        return self._source.read(name, MASTER if MASTER in known else VALUE, start, count)

    def _read_whole(self, name: str) -> torch.Tensor:
        shape = self._shapes[name]
        return self._read(name, 0, torch.Size(shape).numel()).view(shape)

    def _read_stretches(self, name: str) -> Iterator[torch.Tensor]:
        numel = torch.Size(self._shapes[name]).numel()
        for start in range(0, numel, STRETCH):
            yield self._read(name, start, min(STRETCH, numel - start))

    def _read_changed(self, name: str, its_name: str) -> Iterator[torch.Tensor]:
        if self._changed[0] != name:
            whole = self._read_whole(name)
            if self._is_adapted(name):
                whole = whole + self._change_of(name)
            self._changed = (name, self._rename({name: whole.to(self._dtype_of(name))}))
        yield self._changed[1][its_name]

    # ---- adapters ----

    def _is_adapted(self, name: str) -> bool:
        return name.endswith(f"{BESIDE}weight")

    def _change_of(self, name: str) -> torch.Tensor:
        """What the adapters beside a weight add to it, as peft says."""
        owner_name = name.removesuffix(f"{BESIDE}weight")
        layer: Any = self._model.get_submodule(owner_name)
        small = [inner for inner, _ in layer.named_parameters() if ADAPTERS in f".{inner}"]
        unset = {inner: layer.get_parameter(inner) for inner in small}
        for inner in small:
            values = self._read_whole(f"{owner_name}.{inner}").float()
            _put(layer, inner, nn.Parameter(values, requires_grad=False))
        change: torch.Tensor = layer.get_delta_weight(ADAPTER)
        for inner, parameter in unset.items():
            _put(layer, inner, parameter)
        return change


def _put(layer: nn.Module, name: str, parameter: nn.Parameter) -> None:
    holder, _, leaf = name.rpartition(".")
    setattr(layer.get_submodule(holder), leaf, parameter)


def _plain(name: str) -> str:
    return name.replace(BESIDE, ".")
