"""Which parameters decay, and what share of the learning rate each has: by shape, by depth and by patterns of names.

Pure arithmetic on names and shapes, so the launcher refuses a pattern that fits nothing before anything is started.
optimizer.py makes the optimizer's groups of it."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from orchestrator.config.training import OptimSection
from orchestrator.core.errors import ConfigError
from orchestrator.train.models.description import ModelDescription, block_of
from orchestrator.train.models.patterns import find_matching


class Trait(NamedTuple):
    """What the optimizer does alike to all parameters of a group."""

    decays: bool
    lr_share: float


def check_patterns(optim: OptimSection, description: ModelDescription) -> None:
    """Raises ConfigError where a pattern fits no parameter, or a model has no layers to tell apart."""
    shapes = {tensor.name: tensor.shape for tensor in description.tensors if tensor.kind != "buffer"}
    traits_of(optim, shapes, description.tied)


def traits_of(optim: OptimSection, shapes: Mapping[str, tuple[int, ...]], tied: Mapping[str, str]) -> dict[str, Trait]:
    """The trait of each parameter; frozen ones are among them, so that freezing changes no other's. `tied` leads from
    further names, which patterns may use too, to those of `shapes`."""
    names = {**{name: name for name in shapes}, **tied}
    spared = set().union(*(_matching(pattern, names, "optim.no_decay") for pattern in optim.no_decay))
    shares = _shares_by_depth(optim.layer_decay, list(shapes))
    for pattern, rate in optim.rates.items():
        for name in _matching(pattern, names, "optim.rates"):
            shares[name] *= rate
    return {name: Trait(len(shape) > 1 and name not in spared, shares[name]) for name, shape in shapes.items()}


def depths_of(names: Iterable[str]) -> dict[str, int]:
    """How deep each parameter lies: repeated blocks count from 1 in the order in which the model has them; what stands
    before the first one (embeddings) is 0, what stands after one (a norm, the head) one deeper than it."""
    depths, blocks = {}, dict[str, int]()
    for name in names:
        block = block_of(name)
        if block is not None:
            depths[name] = blocks.setdefault(block, len(blocks) + 1)
        else:
            depths[name] = len(blocks) + 1 if blocks else 0
    return depths


def _shares_by_depth(layer_decay: float, names: list[str]) -> dict[str, float]:
    if layer_decay == 1.0:
        return dict.fromkeys(names, 1.0)
    depths = depths_of(names)
    deepest = max(depths.values(), default=0)
    if deepest < 2:
        raise ConfigError(
            f"{layer_decay} needs layers to tell apart, and this model numbers none, as layers.0 and layers.1",
            where="optim.layer_decay",
            remedy="leave it out, and give rates by name in optim.rates",
        )
    return {name: layer_decay ** (deepest - depth) for name, depth in depths.items()}


def _matching(pattern: str, names: Mapping[str, str], key: str) -> set[str]:
    return {names[alias] for alias in find_matching(pattern, names, key)}
