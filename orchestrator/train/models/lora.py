"""Small matrices beside frozen weights, by peft. Called by build.py, before there are values; imports peft."""

from typing import Any

from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from orchestrator.config.model import LoraSection
from orchestrator.config.problems import nearest
from orchestrator.core.errors import ConfigError
from orchestrator.train.models.freeze import keep_statistics

LINEAR = (nn.Linear, Conv1D)


def add_adapters(model: nn.Module, section: LoraSection, *, train_head: bool) -> None:
    """Put adapters beside the modules that are meant; all else is frozen, but with `train_head` for the head."""
    head = list(_head_of(model).parameters()) if train_head else []
    targets = _find_targets(model, section)
    chosen = [model.get_submodule(name) for name in targets]
    settings = LoraConfig(
        r=section.rank,
        lora_alpha=section.alpha,
        lora_dropout=section.dropout,
        target_modules=targets,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in chosen),
        init_lora_weights=False,  # values come from fragments, as all do
    )
    try:
        inject_adapter_in_model(settings, model)
    except (ValueError, TypeError) as error:
        reason = str(error).partition(".")[0]
        raise ConfigError(
            f"peft takes {', '.join(sorted({type(one).__name__ for one in chosen}))} not: {reason}",
            where="model.lora.targets",
            remedy="name linear modules alone",
        ) from error
    for parameter in head:
        parameter.requires_grad_(True)
    keep_statistics(model)


def _find_targets(model: nn.Module, section: LoraSection) -> list[str]:
    """Full names of modules."""
    named = {name: module for name, module in model.named_modules() if name}
    if section.targets == "linear":
        head = set(_head_of(model).modules())
        return [name for name, module in named.items() if isinstance(module, LINEAR) and module not in head]
    chosen = []
    for target in section.targets:
        matching = [name for name in named if name == target or name.endswith(f".{target}")]
        if not matching:
            ends = {name.rpartition(".")[2] for name, module in named.items() if isinstance(module, LINEAR)}
            raise ConfigError(
                f"no module's name ends in '{target}'{nearest(target, ends)}",
                where="model.lora.targets",
                remedy=f"the linear ones end in {', '.join(sorted(ends))}",
            )
        chosen += matching
    return chosen


def _head_of(model: Any) -> nn.ModuleList:
    """What a transformers model has beside its base; of other models the last linear module."""
    if isinstance(model, PreTrainedModel):
        return nn.ModuleList(child for name, child in model.named_children() if name != model.base_model_prefix)
    return nn.ModuleList([module for module in model.modules() if isinstance(module, LINEAR)][-1:])
