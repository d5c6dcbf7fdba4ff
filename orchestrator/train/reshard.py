"""Fragments of named parameters into a DeepSpeed engine, at every ZeRO stage. look.py takes them out again.

Comes after train/engine.py builds the engine and works on the layouts of train/layouts.py; what is inserted comes from
checkpoint/ or train/models/."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from orchestrator.checkpoint.fragments import MASTER, VALUE, FragmentSource, TensorInfo
from orchestrator.core.errors import CheckpointDamaged
from orchestrator.train.layouts import Flat, inner_optimizer, layout_of, names_of, partition_of, unknown_layout
from orchestrator.train.look import describe
from orchestrator.train.loss_scale import write_loss_scale
from orchestrator.train.models.tensors import own_tensors
from orchestrator.train.optim.optimizer import state_names


@torch.no_grad()
def insert(engine: Any, source: FragmentSource) -> None:
    """Fill a fresh engine: master values, optimizer states, frozen parameters, buffers, loss scale.

    Optimizer states that the source lacks start at zero. Collective: all ranks call it with equal sources."""
    optimizer = engine.optimizer
    layout, inner, names = layout_of(optimizer), inner_optimizer(optimizer), names_of(engine.module)
    tensors = describe(engine.module)
    states = {name: source.states(name) for name, info in tensors.items() if info.numel}
    _check_source(states)
    for flat in layout.flats(optimizer, names):
        _fill_master(flat, source, states)
        _fill_states(flat, inner, source, states)
    _fill_whole(engine.module, tensors, source, states)
    write_loss_scale(optimizer, source.engine())
    layout.publish(optimizer)
    for flat in layout.flats(optimizer, names):
        _check_computed(flat)


def _check_source(states: Mapping[str, tuple[str, ...]]) -> None:
    lacking = [name for name, known in states.items() if MASTER not in known and VALUE not in known]
    if lacking:
        raise CheckpointDamaged(
            f"no values of {len(lacking)} tensors of the model, the first is {lacking[0]}",
            remedy="start from a checkpoint of this model, or correct the config's model section",
        )


def _values_state(known: tuple[str, ...]) -> str:
    """Trainable and frozen may swap between runs, so either kind of values will do."""
    return MASTER if MASTER in known else VALUE


def _fill_master(flat: Flat, source: FragmentSource, states: Mapping[str, tuple[str, ...]]) -> None:
    row = flat.master.detach().view(-1)
    row.zero_()  # padding takes part in the optimizer's arithmetic: leave no NaN there
    for held in flat.held:
        values = source.read(held.name, _values_state(states[held.name]), held.start, held.count)
        row[held.offset : held.offset + held.count].copy_(values)


def _fill_states(
    flat: Flat, inner: torch.optim.Optimizer, source: FragmentSource, states: Mapping[str, tuple[str, ...]]
) -> None:
    inner.state.pop(flat.master, None)  # DeepSpeed may have stepped once on zero gradients
    found = [(held, key) for held in flat.held for key in state_names(inner) if key in states[held.name]]
    if not found:
        return
    kept: dict[str, Any] = {key: torch.zeros_like(flat.master) for key in state_names(inner)}
    for held, key in found:
        values = source.read(held.name, key, held.start, held.count)
        kept[key].view(-1)[held.offset : held.offset + held.count].copy_(values)
    device = flat.master.device if inner.defaults.get("fused") else torch.device("cpu")  # as torch's optimizers do
    scalars: dict[str, float] = {}
    for held, _ in found:
        for key, number in source.scalars(held.name).items():
            scalars[key] = max(number, scalars.get(key, number))
    kept.update({key: torch.tensor(number, dtype=torch.float32, device=device) for key, number in scalars.items()})
    inner.state[flat.master] = kept


def _fill_whole(
    module: nn.Module,
    tensors: Mapping[str, TensorInfo],
    source: FragmentSource,
    states: Mapping[str, tuple[str, ...]],
) -> None:
    for name, tensor in own_tensors(module):
        if tensors[name].kind == "trainable" or not tensors[name].numel:
            continue
        if hasattr(tensor, "ds_tensor"):
            start, count = partition_of(tensor)
            row = tensor.ds_tensor.detach()[:count]
        else:
            start, count = 0, tensor.numel()
            row = tensor.detach().view(-1)
        if count:
            row.copy_(source.read(name, _values_state(states[name]), start, count))


def _check_computed(flat: Flat) -> None:
    row = flat.master.detach().view(-1)
    for held in flat.held:
        wanted = row[held.offset : held.offset + held.count].to(held.computed)
        if not torch.equal(wanted, held.computed):
            raise unknown_layout(f"{held.name} after inserting", "its master values, cast")
