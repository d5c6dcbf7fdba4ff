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
from orchestrator.train.models.pretrained import PretrainedWeights, StoredTensors
from orchestrator.train.models.tensors import own_tensors, parameters_on_meta, tied_names

BUILDING = text_key("random numbers of the model's constructor")
Initialise = Callable[[], Any]


def initial_source(config: RunConfig, vocab_size: int | None) -> FragmentSource:
    """Where a run that has no checkpoint yet starts from."""
    made = InitialWeights(config, vocab_size)
    if config.model.pretrained is None and config.model.weights is None:
        return made
    return PretrainedWeights(StoredTensors(config, made.model), made)


class InitialWeights:
    """The model's own random initialisation, as a source of fragments. Keeps the tensor it made last."""

    def __init__(self, config: RunConfig, vocab_size: int | None) -> None:
        with torch.random.fork_rng(devices=[]), parameters_on_meta():
            torch.default_generator.manual_seed(int(key(config.seed, BUILDING)))  # some buffers are drawn here
            self.model = build_model(config, vocab_size)
        self._seed = config.seed
        self._tied = tied_names(self.model)
        self._states = {name: state_of(tensor) for name, tensor in own_tensors(self.model)}
        self._latest_name, self._latest = "", torch.empty(0)

    def states(self, name: str) -> tuple[str, ...]:
        name = self._tied.get(name, name)
        return (self._states[name],) if name in self._states else ()

    def read(self, name: str, state: str, start: int, count: int) -> torch.Tensor:
        name = self._tied.get(name, name)
        if state != self._states[name]:
            raise KeyError(f"{name} has no state {state!r} at step 0")
        if name != self._latest_name:
            self._latest_name, self._latest = name, make_tensor(self.model, name, self._seed).flatten()
        return self._latest[start : start + count]

    def scalars(self, name: str) -> dict[str, float]:  # noqa: ARG002 - a FragmentSource; no update has been made yet
        return {}

    def engine(self) -> dict[str, float]:
        return {}


def make_tensor(model: nn.Module, name: str, seed: int) -> torch.Tensor:
    """One parameter or buffer of a model whose parameters are on meta, initialised as it would be within the whole.

    Every module above a tensor may have a say in it (GPT-2's attention scales the weights of its projection), so all
    of them are asked, inner before outer. All other parameters stay on meta, where that costs nothing and draws no
    random numbers. A buffer that none of them sets keeps the value it was built with."""
    owner_name, _, leaf = name.rpartition(".")
    owner = model.get_submodule(owner_name)
    holder: Any = owner._parameters if leaf in owner._parameters else owner._buffers
    built = holder[leaf]
    values = torch.full(built.shape, _unset(built.dtype), dtype=built.dtype)
    holder[leaf] = nn.Parameter(values) if isinstance(built, nn.Parameter) else values
    untouched = holder[leaf]._version
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(key(seed, text_key(name))))
            for initialise in reversed(list(_initialisers(model, owner_name))):
                initialise()
        made: torch.Tensor = holder[leaf].detach()
    except NotImplementedError as error:  # it wanted to read a tensor that is on meta
        raise _not_initialised(name, model, owner) from error
    finally:
        holder[leaf] = built
    if made._version != untouched and not (made.is_floating_point() and bool(made.isnan().any())):
        return made
    if isinstance(built, nn.Parameter) or built.is_meta:
        raise _not_initialised(name, model, owner)
    made = built.detach()
    return made


def _initialisers(model: nn.Module, owner_name: str) -> Iterator[Initialise]:
    """From the model down to the owner, of each module that has one: what sets the values of all it holds.

    That is reset_parameters, as torch's modules have it, or what the innermost transformers model around it says."""
    module, within = model, _transformer_of(model, None)
    yield from _initialiser(module, within)
    for part in filter(None, owner_name.split(".")):
        module = module.get_submodule(part)
        within = _transformer_of(module, within)
        yield from _initialiser(module, within)


def _transformer_of(module: nn.Module, outer: PreTrainedModel | None) -> PreTrainedModel | None:
    return module if isinstance(module, PreTrainedModel) else outer


def _initialiser(module: Any, within: PreTrainedModel | None) -> Iterator[Initialise]:
    if hasattr(module, "reset_lora_parameters"):  # a module of peft, with its adapters below it
        yield lambda: module.reset_lora_parameters("default", True)
    elif within is not None:
        yield lambda: within._init_weights(module)
    else:
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if reset is not None:
            yield reset


def _not_initialised(name: str, model: nn.Module, owner: nn.Module) -> ConfigError:
    if isinstance(model, PreTrainedModel):
        return ConfigError(
            f"{type(owner).__name__} of this model gives {name} no initial value of its own",
            where="model.transformers.model_type",
            remedy="start from model.pretrained, or choose another model_type",
        )
    return ConfigError(
        f"{type(owner).__name__} gives {name} no initial value, once the model is built",
        where="model",
        remedy=f"give {type(owner).__name__} a method reset_parameters() that sets it, or start from model.weights",
    )


def state_of(tensor: torch.Tensor) -> str:
    return MASTER if isinstance(tensor, nn.Parameter) and tensor.requires_grad else VALUE


def _unset(dtype: torch.dtype) -> float:
    return float("nan") if dtype.is_floating_point else 0
