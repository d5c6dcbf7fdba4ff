"""How DeepSpeed's optimizer wrappers lay out master values and optimizer states, by ZeRO stage and precision.

The 0.19 series has five layouts; whatever is not as known raises. look.py takes fragments out of
them, reshard.py puts them in."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from orchestrator.core.errors import TrainingFailed


@dataclass(frozen=True, slots=True)
class Held:
    """A stretch of one parameter inside a flat tensor, counted in elements."""

    name: str
    start: int  # in the flattened parameter
    count: int
    offset: int  # in the flat tensor
    computed: torch.Tensor  # the same stretch as forward and backward see it


@dataclass(frozen=True, slots=True)
class Flat:
    """One fp32 tensor that the optimizer steps: parameters one after another, perhaps with padding."""

    master: torch.Tensor
    held: list[Held]


@dataclass(frozen=True, slots=True)
class Layout:
    """How one of DeepSpeed's optimizer wrappers keeps its state."""

    flats: Callable[[Any, Mapping[nn.Parameter, str]], Iterator[Flat]]
    publish: Callable[[Any], None]  # makes the module's values follow from the master values; collective
    replicated: bool  # every rank holds everything


def inner_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer inside DeepSpeed's wrapper."""
    inner: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return inner


def names_of(module: nn.Module) -> dict[nn.Parameter, str]:
    return {parameter: name for name, parameter in module.named_parameters()}


def layout_of(optimizer: Any) -> Layout:
    """The layout of this wrapper; an unknown one must not be guessed at."""
    if isinstance(optimizer, torch.optim.Optimizer):
        return _PLAIN
    try:
        return _LAYOUTS[type(optimizer).__name__]
    except KeyError:
        raise unknown_layout(f"the optimizer wrapper {type(optimizer).__name__}", "one of", *_LAYOUTS) from None


def _plain_flats(optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str]) -> Iterator[Flat]:
    """Stage 0 in fp32: torch's optimizer steps the parameters themselves."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            row = parameter.detach().view(-1)
            yield Flat(parameter, [Held(names[parameter], 0, row.numel(), 0, row)])


def _unfused_flats(optimizer: Any, names: Mapping[nn.Parameter, str]) -> Iterator[Flat]:
    """Stage 0 in bf16 and fp16: an fp32 copy of each parameter."""
    for group, masters in zip(_part(optimizer, "fp16_groups"), _part(optimizer, "fp32_groups"), strict=True):
        for parameter, master in zip(group, masters, strict=True):
            row = parameter.detach().view(-1)
            yield Flat(master, [Held(names[parameter], 0, row.numel(), 0, row)])


def _zero_flats(masters: str, groups: str) -> Callable[[Any, Mapping[nn.Parameter, str]], Iterator[Flat]]:
    """Stages 1 and 2: each group's parameters in one row, of which this rank has one equal part."""

    def flats(optimizer: Any, names: Mapping[nn.Parameter, str]) -> Iterator[Flat]:
        if getattr(optimizer, "round_robin_gradients", False):
            raise unknown_layout("zero_optimization.round_robin_gradients", "false: its address map is wrong")
        for master, group in zip(_part(optimizer, masters), _part(optimizer, groups), strict=True):
            held = []
            for parameter in group:
                mapping = _part(parameter, "_hp_mapping")  # None when no element lies in this rank's part
                if mapping is not None:
                    low, high = mapping.lp_fragment_address, mapping.hp_fragment_address
                    row = parameter.detach().view(-1)[low.start : low.start + low.numel]
                    held.append(Held(names[parameter], low.start, low.numel, high.start, row))
            yield Flat(master, held)

    return flats


def _stage3_flats(optimizer: Any, names: Mapping[nn.Parameter, str]) -> Iterator[Flat]:
    """Stage 3: each parameter is cut into equal parts, the last one padded; a rank's parts lie in a row."""
    groups, masters = _part(optimizer, "fp16_groups"), _part(optimizer, "fp32_partitioned_groups_flat")
    positions = _part(optimizer, "grad_position")
    for index, (group, master) in enumerate(zip(groups, masters, strict=True)):
        held = []
        for parameter in group:
            at, offset, size = positions[optimizer.get_param_id(parameter)]
            if at != index or size != parameter.ds_tensor.ds_numel:
                raise unknown_layout(f"{names[parameter]} at {at, offset, size}", f"in sub-group {index}")
            start, count = partition_of(parameter)
            if count:
                held.append(Held(names[parameter], start, count, offset, parameter.ds_tensor.detach()[:count]))
        yield Flat(master, held)


def partition_of(parameter: Any) -> tuple[int, int]:
    """Start and count of this rank's part of a ZeRO-3 parameter, without padding."""
    size = parameter.ds_tensor.ds_numel
    start = min(parameter.ds_zero_partition_rank * size, parameter.ds_numel)
    return start, min(size, parameter.ds_numel - start)


def _publish_nothing(optimizer: Any) -> None: ...


def _publish_unfused(optimizer: Any) -> None:
    for group, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
        for parameter, master in zip(group, masters, strict=True):
            parameter.data.copy_(master.data)


def _publish_zero(optimizer: Any) -> None:
    optimizer.update_lp_params()


def _publish_stage3(optimizer: Any) -> None:
    """What Stage3.step does after the inner optimizer's step. Persistent parameters would stay stale otherwise."""
    computed = _part(optimizer, "fp16_partitioned_groups_flat")
    for index, (low, high) in enumerate(zip(computed, optimizer.fp32_partitioned_groups_flat, strict=True)):
        low.data.copy_(high.data)
        optimizer._unflatten_partitioned_parameters(index)
    persistent = _part(optimizer, "persistent_parameters")
    if persistent:
        persistent[0].all_gather(persistent)


_PLAIN = Layout(_plain_flats, _publish_nothing, replicated=True)
_LAYOUTS = {
    "FP16_UnfusedOptimizer": Layout(_unfused_flats, _publish_unfused, replicated=True),
    "BF16_Optimizer": Layout(  # stage 1 in bf16 with fp32 accumulation
        _zero_flats("fp32_groups_flat_partition", "bf16_groups"), _publish_zero, replicated=False
    ),
    "DeepSpeedZeroOptimizer": Layout(  # stages 1 and 2
        _zero_flats("single_partition_of_fp32_groups", "bit16_groups"), _publish_zero, replicated=False
    ),
    "DeepSpeedZeroOptimizer_Stage3": Layout(_stage3_flats, _publish_stage3, replicated=False),
}


def _part(owner: Any, attribute: str) -> Any:
    if not hasattr(owner, attribute):
        raise unknown_layout(f"{type(owner).__name__} without {attribute}", "it there")
    return getattr(owner, attribute)


def unknown_layout(found: str, *expected: str) -> TrainingFailed:
    return TrainingFailed(
        f"DeepSpeed {version('deepspeed')} keeps its state in an unknown way: found {found}, expected "
        + " ".join(expected),
        where="train/layouts.py",
        remedy="install a DeepSpeed that pyproject.toml allows, or remove the newest key of the deepspeed section",
    )
