"""Tensors that transformers stores under other names, or in other pieces than its models keep them in, as experts.

Used by pretrained.py for what is not found by its own name. One tensor of the model at a time is put together."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

Part = tuple[str, str | None]  # a stored tensor's name, and the pattern of it that a converter knows
Read = Callable[[str], torch.Tensor]


class Conversion(NamedTuple):
    """Stored tensors that together make `target`, and perhaps more."""

    model: PreTrainedModel
    target: str
    transform: WeightConverter | WeightRenaming
    parts: tuple[Part, ...]

    def make(self, read: Read) -> dict[str, torch.Tensor]:
        transform = deepcopy(self.transform)
        for stored, pattern in self.parts:
            transform.add_tensor(self.target, stored, pattern or stored, read(stored))
        made = transform.convert(self.target, model=self.model, config=self.model.config)
        return {name: tensor[0] if isinstance(tensor, list) else tensor for name, tensor in made.items()}


def find_conversions(model: PreTrainedModel, names: Iterable[str], stored: Iterable[str]) -> list[Conversion]:
    """What of the model's tensors (`names`) can be made of stored ones."""
    mapping = get_model_conversion_mapping(model)
    renamings = [one for one in mapping if isinstance(one, WeightRenaming)]
    converters = [one for one in mapping if isinstance(one, WeightConverter)]
    by_pattern: dict[str, Any] = {pattern: one for one in converters for pattern in one.source_patterns}
    known = dict.fromkeys(names, True)
    parts: dict[str, list[Part]] = defaultdict(list)
    for name in sorted(stored, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, known)
        parts[target].append((name, pattern))
    found = []
    for target, held in parts.items():
        first, pattern = held[0]
        transform = WeightRenaming(first, target) if pattern is None else by_pattern[pattern]
        found.append(Conversion(model, target, transform, tuple(held)))
    return found
