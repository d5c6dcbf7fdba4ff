"""The fragments of step 0: initial weights made tensor by tensor, each keyed by (seed, its name).

So every rank can make just what it holds, and the values do not depend on world, ZeRO stage or order of building.
Memory is one tensor at a time. Read like any checkpoint, by train/engine.py."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from orchestrator.checkpoint.fragments import MASTER, VALUE, FragmentSource
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import ConfigError
from orchestrator.core.keyed import key, text_key
from orchestrator.train.models.build import build_model
from orchestrator.train.models.pretrained import PretrainedWeights
from orchestrator.train.models.tensors import own_tensors, tied_names


def initial_source(config: RunConfig, vocab_size: int | None) -> FragmentSource:
    """Where a run that has no checkpoint yet starts from."""
    if config.model.pretrained is not None:
        return PretrainedWeights(config, vocab_size)
    return InitialWeights(config, vocab_size)


class InitialWeights:
    """The model's own random initialisation, as a source of fragments. Keeps the tensor it made last."""

    def __init__(self, config: RunConfig, vocab_size: int | None) -> None:
        with torch.device("meta"):
            self._model = build_model(config, vocab_size)
        self._seed = config.seed
        self._tied = tied_names(self._model)
        self._states = {name: _state_of(tensor) for name, tensor in own_tensors(self._model)}
        self._latest_name, self._latest = "", torch.empty(0)

    def states(self, name: str) -> tuple[str, ...]:
        name = self._tied.get(name, name)
        return (self._states[name],) if name in self._states else ()

    def read(self, name: str, state: str, start: int, count: int) -> torch.Tensor:
        name = self._tied.get(name, name)
        if state != self._states[name]:
            raise KeyError(f"{name} has no state {state!r} at step 0")
        if name != self._latest_name:
            self._latest_name, self._latest = name, make_tensor(self._model, name, self._seed).flatten()
        return self._latest[start : start + count]

    def scalars(self, name: str) -> dict[str, float]:  # noqa: ARG002 - a FragmentSource; no update has been made yet
        return {}

    def engine(self) -> dict[str, float]:
        return {}


def make_tensor(model: nn.Module, name: str, seed: int) -> torch.Tensor:
    """One parameter or buffer of a model on the meta device, initialised as transformers would within the whole model.

    Every module above a parameter may have a say in it (GPT-2's attention scales the weights of its projection), so all
    of them are asked, inner before outer as transformers does. All other tensors stay on meta, where that costs nothing
    and draws no random numbers."""
    owner_name, _, leaf = name.rpartition(".")
    owner = model.get_submodule(owner_name)
    holder: Any = owner._parameters if leaf in owner._parameters else owner._buffers
    on_meta = holder[leaf]
    values = torch.full(on_meta.shape, _unset(on_meta.dtype), dtype=on_meta.dtype)
    holder[leaf] = nn.Parameter(values) if isinstance(on_meta, nn.Parameter) else values
    untouched = holder[leaf]._version
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(key(seed, text_key(name))))
            for module, initialise in reversed(list(_modules_above(model, owner_name))):
                initialise(module)
        made: torch.Tensor = holder[leaf].detach()
    except NotImplementedError as error:  # it wanted to read a tensor that is on meta
        raise _not_initialised(name, owner) from error
    finally:
        holder[leaf] = on_meta
    if made._version == untouched or (made.is_floating_point() and bool(made.isnan().any())):
        raise _not_initialised(name, owner)
    return made


def _modules_above(model: nn.Module, owner_name: str) -> Iterator[tuple[nn.Module, Callable[[nn.Module], None]]]:
    """From the model down to the owner: each module, and how the innermost transformers model around it initialises."""
    module, initialise = model, _initialiser(model)
    yield module, initialise
    for part in filter(None, owner_name.split(".")):
        module = module.get_submodule(part)
        initialise = _initialiser(module) if isinstance(module, PreTrainedModel) else initialise
        yield module, initialise


def _not_initialised(name: str, owner: nn.Module) -> ConfigError:
    return ConfigError(
        f"{type(owner).__name__} of this model gives {name} no initial value of its own",
        where="model.transformers.model_type",
        remedy="start from model.pretrained, or choose another model_type",
    )


def _initialiser(model: Any) -> Callable[[nn.Module], None]:
    initialise: Callable[[nn.Module], None] = model._init_weights
    return initialise


def _state_of(tensor: torch.Tensor) -> str:
    return MASTER if isinstance(tensor, nn.Parameter) and tensor.requires_grad else VALUE


def _unset(dtype: torch.dtype) -> float:
    return float("nan") if dtype.is_floating_point else 0
