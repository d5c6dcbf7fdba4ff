"""A checkpoint of DeepSpeed's becomes one of a run's: weights, the optimizer's states and the step.

Called by launch/takeover.py. What else makes a run, its data above all, comes from the config."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.checkpoint.layout import CheckpointFacts
from orchestrator.checkpoint.shelf import Address, Shelf
from orchestrator.config.compare import run_hash
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import BadInput
from orchestrator.train.engine import DTYPES
from orchestrator.train.exchange.checkpoint import write_checkpoint
from orchestrator.train.exchange.deepspeed_files import find_files
from orchestrator.train.exchange.deepspeed_state import DeepSpeedState, Wanted
from orchestrator.train.models.build import build_model
from orchestrator.train.models.tensors import own_tensors, parameters_on_meta, tied_names
from orchestrator.train.optim.optimizer import make_optimizer, state_names

COMPARED = ("betas", "eps", "momentum", "nesterov", "weight_decay")  # what the optimizer goes by, beside the rate


class Opened(NamedTuple):
    """`differences` are settings of the optimizer that are other ones from now on."""

    state: DeepSpeedState
    differences: tuple[str, ...]


def open_deepspeed(folder: Path, config: RunConfig, vocab_size: int | None) -> Opened:
    """Raises DataError when it is none, or of another model than the config's."""
    files = find_files(folder)
    with parameters_on_meta():
        model = build_model(config, vocab_size)
    optimizer = make_optimizer(model, config.optim, "cpu")
    names = {parameter: name for name, parameter in model.named_parameters()}
    wanted = Wanted(
        shapes={name: tuple(tensor.shape) for name, tensor in own_tensors(model)},
        tied=tied_names(model),
        groups=tuple(tuple(names[parameter] for parameter in group["params"]) for group in optimizer.param_groups),
        states=state_names(optimizer),
    )
    state = DeepSpeedState(files, wanted, DTYPES[config.train.precision])
    if config.train.steps is not None and state.step >= config.train.steps:
        raise BadInput(
            f"{state.step} steps are done already", where=str(folder), remedy="raise train.steps, which counts them all"
        )
    return Opened(state, tuple(_compare(state.settings, optimizer.param_groups)))


def take_in(state: DeepSpeedState, config: RunConfig, chain: list[str], shelf: Shelf, generation: int) -> Address:
    """Put where the run keeps its checkpoints."""
    facts = CheckpointFacts(zero_stage=config.zero_stage, config_hash=run_hash(config), chain=tuple(chain))
    return write_checkpoint(shelf, state, state.tensors, facts, step=state.step, generation=generation)


def _compare(theirs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> Iterator[str]:
    """The rate is the schedule's, step by step."""
    for key in COMPARED:
        there, here = _values_of(key, theirs), _values_of(key, ours)
        if there and here and there != here:
            yield f"optim: {key} was {' and '.join(there)}, is {' and '.join(here)} now"


def _values_of(key: str, groups: list[dict[str, Any]]) -> list[str]:
    return sorted({str(group[key]) for group in groups if group.get(key) is not None})
