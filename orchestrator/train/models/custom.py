"""A user's own module by dotted name. Called by build.py."""

from torch import nn

from orchestrator.config.model import CustomSection
from orchestrator.core.dotted import find_function
from orchestrator.core.errors import ConfigError


def build_custom(section: CustomSection) -> nn.Module:
    build = find_function(section.build, "model.custom.build")
    try:
        module = build(**section.args)
    except Exception as error:  # the user's code
        raise ConfigError(
            f"{section.build} did not build a model: {type(error).__name__}: {error}",
            where="model.custom",
            remedy="correct it, or model.custom.args, its arguments by name",
        ) from error
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"{section.build} gave a {type(module).__name__}, not a torch module",
            where="model.custom.build",
            remedy="name a subclass of torch.nn.Module, or a function that returns one",
        )
    return module
