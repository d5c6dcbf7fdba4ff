"""Fragments of named parameters out of and into a DeepSpeed engine, at every ZeRO stage.

Comes after train/engine.py builds the engine and works on the layouts of train/layouts.py; what is looked at goes to
snapshot.py, what is inserted comes from checkpoint/ or train/models/."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from orchestrator.checkpoint.fragments import MASTER, VALUE, Fragment, FragmentSource, RankState, TensorInfo
from orchestrator.core.errors import CheckpointDamaged
from orchestrator.core.words import World
from orchestrator.train.layouts import Flat, inner_optimizer, layout_of, partition_of, unknown_layout
from orchestrator.train.models.tensors import kind_of, own_tensors
from orchestrator.train.optim.optimizer import state_names

# Our names for the fields of DeepSpeed's dynamic loss scalers (fp16); only stages 1 to 3 know hysteresis.
LOSS_SCALE_FIELDS = {
    "loss_scale": "cur_scale",
    "loss_scale_iteration": "cur_iter",
    "last_overflow_iteration": "last_overflow_iter",
    "hysteresis": "cur_hysteresis",
}


def look(engine: Any, world: World) -> RankState:
    """This rank's part of the state where it lies: views of the engine's memory, which the next step changes."""
    layout, inner = layout_of(engine.optimizer), inner_optimizer(engine.optimizer)
    tensors = describe(engine.module)
    whole = {name for name, info in tensors.items() if layout.replicated or info.kind != "trainable"}
    share = cut_row({name: tensors[name].numel for name in tensors if name in whole}, world.rank, world.size)
    state = RankState(fragments=[], tensors=tensors, scalars={}, engine=_read_loss_scale(engine.optimizer))
    for flat in layout.flats(engine.optimizer, _names_of(engine.module)):
        rows, scalars = _rows_and_scalars(flat.master, inner.state.get(flat.master, {}))
        shares = [(held, *(share[held.name] if layout.replicated else (held.start, held.count))) for held in flat.held]
        for key, row in rows.items():  # neighbours of a row stay neighbours, so that they can be copied at once
            for held, start, count in shares:
                begin = held.offset + start - held.start
                if count:
                    state.fragments.append(Fragment(held.name, key, start, row[begin : begin + count]))
        state.scalars |= {held.name: scalars for held, _, count in shares if count}
    state.fragments += _whole_fragments(engine.module, tensors, share)
    return state


@torch.no_grad()
def insert(engine: Any, source: FragmentSource) -> None:
    """Fill a fresh engine: master values, optimizer states, frozen parameters, buffers, loss scale.

    Optimizer states that the source lacks start at zero. Collective: all ranks call it with equal sources."""
    optimizer = engine.optimizer
    layout, inner, names = layout_of(optimizer), inner_optimizer(optimizer), _names_of(engine.module)
    tensors = describe(engine.module)
    states = {name: source.states(name) for name, info in tensors.items() if info.numel}
    _check_source(states)
    for flat in layout.flats(optimizer, names):
        _fill_master(flat, source, states)
        _fill_states(flat, inner, source, states)
    _fill_whole(engine.module, tensors, source, states)
    _write_loss_scale(optimizer, source.engine())
    layout.publish(optimizer)
    for flat in layout.flats(optimizer, names):
        _check_computed(flat)


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


# ---- out ----


def _rows_and_scalars(
    master: torch.Tensor, kept: Mapping[str, Any]
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Master values and the optimizer's states of a flat tensor as rows, and its single numbers."""
    rows, scalars = {MASTER: master.detach().view(-1)}, {}
    for key, value in kept.items():
        if torch.is_tensor(value) and value.shape == master.shape:
            rows[key] = value.detach().view(-1)
        elif value is not None:
            scalars[key] = float(value)
    return rows, scalars


def _whole_fragments(
    module: nn.Module, tensors: Mapping[str, TensorInfo], share: Mapping[str, tuple[int, int]]
) -> Iterator[Fragment]:
    """Frozen parameters and buffers: this rank's share, or under ZeRO-3 its part, of each."""
    for name, tensor in own_tensors(module):
        if tensors[name].kind == "trainable":
            continue
        if hasattr(tensor, "ds_tensor"):
            start, count = partition_of(tensor)
            values = tensor.ds_tensor.detach()[:count]
        else:
            start, count = share[name]
            values = tensor.detach().view(-1)[start : start + count]
        if count:
            yield Fragment(name, VALUE, start, values)


def _read_loss_scale(optimizer: Any) -> dict[str, float]:
    scaler = _dynamic_scaler(optimizer)
    present = {ours: theirs for ours, theirs in LOSS_SCALE_FIELDS.items() if hasattr(scaler, theirs)}
    return {ours: float(getattr(scaler, theirs)) for ours, theirs in present.items()}


# ---- in ----


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


def _write_loss_scale(optimizer: Any, kept: Mapping[str, float]) -> None:
    scaler = _dynamic_scaler(optimizer)
    for ours, theirs in LOSS_SCALE_FIELDS.items():
        if ours in kept and hasattr(scaler, theirs):
            setattr(scaler, theirs, kept[ours] if ours == "loss_scale" else int(kept[ours]))


# ---- shared ----


def _dynamic_scaler(optimizer: Any) -> Any:
    """DeepSpeed's object that holds a changing loss scale; None when the scale never changes (fp32, bf16)."""
    scaler = getattr(optimizer, "loss_scaler", None) or getattr(optimizer, "loss_scale_config", None)
    dynamic = getattr(scaler, "dynamic", False) or getattr(scaler, "dynamic_loss_scale", False)
    return scaler if dynamic else None


def _names_of(module: nn.Module) -> dict[nn.Parameter, str]:
    return {parameter: name for name, parameter in module.named_parameters()}
