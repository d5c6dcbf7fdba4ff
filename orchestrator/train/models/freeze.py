"""Parameters that do not learn, by patterns of their names. Called by build.py, before there are values."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from orchestrator.core.errors import ConfigError
from orchestrator.train.models.patterns import find_matching


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """A tied parameter is frozen under any of its names. Norms whose parameters are all frozen keep their statistics,
    too, and normalise by them."""
    named = dict(model.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        for name in find_matching(pattern, named, "model.freeze"):
            named[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in named.values()):
        raise ConfigError(
            f"all {len(named)} parameters are frozen: nothing is left to learn",
            where="model.freeze",
            remedy="leave some out of the patterns, for example those of the last layer",
        )
    keep_statistics(model)


def keep_statistics(model: nn.Module) -> None:
    """Batch norms whose parameters do not learn are used as in an evaluation."""
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if isinstance(module, _NormBase) and own and not any(parameter.requires_grad for parameter in own):
            module.register_forward_pre_hook(_evaluate)


def _evaluate(module: nn.Module, inputs: tuple[Any, ...]) -> None:  # noqa: ARG001 - a hook
    module.training = False  # whoever has called train() on the whole model since
