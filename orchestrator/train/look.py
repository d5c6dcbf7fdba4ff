"""Fragments of named parameters out of a DeepSpeed engine, at every ZeRO stage: views of its memory, nothing is copied.

Works on the layouts of train/layouts.py. What is looked at goes to snapshot.py; reshard.py puts fragments in."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from orchestrator.checkpoint.fragments import MASTER, VALUE, Fragment, RankState, TensorInfo
from orchestrator.core.words import World
from orchestrator.train.layouts import Flat, inner_optimizer, layout_of, names_of, partition_of, unknown_layout
from orchestrator.train.loss_scale import read_loss_scale
from orchestrator.train.models.tensors import kind_of, own_tensors
from orchestrator.train.optim.optimizer import state_names


class Lookout:
    """Of one engine. Where everything lies is found out once, and again only if some memory has moved."""

    def __init__(self, engine: Any, world: World) -> None:
        self._module, self._optimizer = engine.module, engine.optimizer
        layout = layout_of(self._optimizer)
        self._inner = inner_optimizer(self._optimizer)
        self._tensors = describe(self._module)
        self._flats = list(layout.flats(self._optimizer, names_of(self._module)))
        whole = [name for name, info in self._tensors.items() if layout.replicated or info.kind != "trainable"]
        self._share = cut_row({name: self._tensors[name].numel for name in whole}, world.rank, world.size)
        self._is_replicated = layout.replicated
        self._whole = [(name, *_find_owner(self._module, name)) for name in whole if not self._is_trainable(name)]
        self._places: list[int] = []
        self._fragments: list[Fragment] = []

    def look(self) -> RankState:
        """This rank's part of the state where it lies: views of the engine's memory, which the next step changes.

        As long as no memory moves, `fragments` and `tensors` are the same objects every time."""
        places = [tensor.data_ptr() for tensor in self._all_memory()]
        if places != self._places:
            self._places, self._fragments = places, [*self._cut_flats(), *self._cut_whole()]
        return RankState(
            fragments=self._fragments,
            tensors=self._tensors,
            scalars=self._read_scalars(),
            engine=read_loss_scale(self._optimizer),
        )

    def _all_memory(self) -> Iterator[torch.Tensor]:
        for flat in self._flats:
            yield flat.master
            yield from self._states_of(flat).values()
        for _, owned, key in self._whole:
            yield getattr(owned[key], "ds_tensor", owned[key])

    def _states_of(self, flat: Flat) -> dict[str, torch.Tensor]:
        kept: Mapping[str, Any] = self._inner.state.get(flat.master, {})
        return {key: kept[key] for key in state_names(self._inner) if kept.get(key) is not None}

    def _cut_flats(self) -> Iterator[Fragment]:
        for flat in self._flats:
            shares = list(self._shares_of(flat))
            for key, tensor in {MASTER: flat.master, **self._states_of(flat)}.items():
                if tensor.shape != flat.master.shape:
                    raise unknown_layout(f"state {key} of shape {list(tensor.shape)}", f"{list(flat.master.shape)}")
                row = tensor.detach().view(-1)
                for name, start, count, offset in shares:  # neighbours stay neighbours, to be copied at once
                    yield Fragment(name, key, start, row[offset : offset + count])

    def _shares_of(self, flat: Flat) -> Iterator[tuple[str, int, int, int]]:
        """What this rank speaks for: name, start and count in the parameter, place in the flat tensor."""
        for held in flat.held:
            start, count = self._share[held.name] if self._is_replicated else (held.start, held.count)
            if count:
                yield held.name, start, count, held.offset + start - held.start

    def _cut_whole(self) -> Iterator[Fragment]:
        """Frozen parameters and buffers: this rank's share, or under ZeRO-3 its part, of each."""
        for name, owned, key in self._whole:
            tensor = owned[key]
            if hasattr(tensor, "ds_tensor"):
                start, count = partition_of(tensor)
                values = tensor.ds_tensor.detach()[:count]
            else:
                start, count = self._share[name]
                values = tensor.detach().view(-1)[start : start + count]
            if count:
                yield Fragment(name, VALUE, start, values)

    def _read_scalars(self) -> dict[str, dict[str, float]]:
        """The optimizer's single numbers, by parameter."""
        rows = set(state_names(self._inner))
        found: list[tuple[Flat, str, Any]] = []
        for flat in self._flats:
            kept: Mapping[str, Any] = self._inner.state.get(flat.master, {})
            found += [(flat, key, kept[key]) for key in kept if key not in rows and kept[key] is not None]
        scalars: dict[str, dict[str, float]] = {}
        for (flat, key, _), number in zip(found, _read_numbers([value for _, _, value in found]), strict=True):
            for name, *_ in self._shares_of(flat):
                scalars.setdefault(name, {})[key] = number
        return scalars

    def _is_trainable(self, name: str) -> bool:
        return self._tensors[name].kind == "trainable"


def describe(module: nn.Module) -> dict[str, TensorInfo]:
    """All parameters and persistent buffers, tied ones under their first name. The same on every rank."""
    infos = {}
    for name, tensor in own_tensors(module):
        shape = tuple(getattr(tensor, "ds_shape", tensor.shape))  # ZeRO-3 leaves an empty parameter behind
        infos[name] = TensorInfo(shape, str(tensor.dtype).removeprefix("torch."), kind_of(tensor))
    return infos


def cut_row(numels: Mapping[str, int], rank: int, size: int) -> dict[str, tuple[int, int]]:
    """Lay tensors in a row and cut it into `size` equal parts: (start, count) of each tensor in part `rank`."""
    total, reached, cut = sum(numels.values()), 0, {}
    first, last = total * rank // size, total * (rank + 1) // size
    for name, numel in numels.items():
        start = min(max(first - reached, 0), numel)
        stop = min(max(last - reached, 0), numel)
        cut[name] = (start, stop - start)
        reached += numel
    return cut


def _find_owner(module: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """The dictionary in which a module keeps this parameter or buffer, whatever tensor that is by then."""
    path, _, key = name.rpartition(".")
    owner = module.get_submodule(path)
    return (owner._parameters if key in owner._parameters else owner._buffers), key


def _read_numbers(values: list[Any]) -> list[float]:
    """Those that lie on a device come in one transfer."""
    if values and all(torch.is_tensor(value) and value.is_cuda for value in values):
        return [float(number) for number in torch.stack([value.double() for value in values]).tolist()]
    return [float(value) for value in values]
