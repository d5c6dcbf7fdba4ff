"""How many bytes one more sample takes in forward and backward, counted without computing anything.

For resolve.py's choice of train.micro_batch. The model runs on fake tensors, which have sizes but no memory, so it may
be larger than this machine, and what is alive at the worst moment is added up."""

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from orchestrator.config.run import RunConfig
from orchestrator.core.dotted import is_dotted
from orchestrator.train.engine import build_empty
from orchestrator.train.models.build import build_model
from orchestrator.train.models.sizes import num_inputs
from orchestrator.train.tasks.table import make_task
from orchestrator.train.tasks.task import Fields, Inputs

SAMPLES = 16  # enough that the worst moment is one of many activations, not one of many gradients


def count_activations(config: RunConfig, vocab_size: int | None) -> int | None:
    """Bytes of a sample, at the longest sequence of any phase; None where it cannot be told.

    What is alive at most grows with the samples by a straight line from some number on, and less steeply before it: so
    the line between two large numbers promises too little room rather than too much."""
    if is_dotted(config.task.name) or config.task.name not in _FIELDS:
        return None  # nobody can tell what a task of one's own is fed, or how large pictures are
    try:
        few, many = (_count_alive(config, vocab_size, count) for count in (SAMPLES, 2 * SAMPLES))
    except (RuntimeError, TypeError, AttributeError):  # it wants to see values
        return None
    return max(1, -(-(many - few) // SAMPLES))


def _count_alive(config: RunConfig, vocab_size: int | None, count: int) -> int:
    """The most bytes that are alive in a forward and a backward of so many samples."""
    device = torch.device("cpu")
    task = make_task(config, None)  # type: ignore[arg-type]  # only balanced class weights look into the data
    inputs: Inputs = task.collate(_FIELDS[config.task.name](config, count), device)
    whole = config.model_copy(update={"deepspeed": {}})  # stage 3 would want a world to cut it up for
    fake = FakeTensorMode()
    with fake:
        model = build_empty(partial(build_model, config, vocab_size), whole, "cpu")
        fed: Inputs = {name: fake.from_tensor(tensor) for name, tensor in inputs.items()}
        alive = Alive()
        with alive:
            task.step(model, fed).loss.backward()  # type: ignore[no-untyped-call]
    return alive.most_bytes


class Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the memory of all tensors that operations give, while it is in use.

    torch's own MemTracker does more, and takes minutes for a model of a thousand modules."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most_bytes = 0
        self._bytes = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(given):
            if isinstance(tensor, torch.Tensor):
                self._meet(tensor.untyped_storage())
        self.most_bytes = max(self.most_bytes, self._bytes)
        return given

    def _meet(self, storage: torch.UntypedStorage) -> None:
        place = storage._cdata
        if place not in self._known:
            self._known.add(place)
            self._bytes += storage.nbytes()
            weakref.finalize(storage, self._part, place, storage.nbytes())

    def _part(self, place: int, size_bytes: int) -> None:
        self._known.discard(place)
        self._bytes -= size_bytes


# ---- samples of the right shapes ----


def _make_sequences(config: RunConfig, count: int) -> Fields:
    length = longest_sequence(config)
    fields: dict[str, Any] = {"tokens": np.zeros((count, length + 1), np.int64)}
    fields["weights"] = np.ones((count, length), np.float32)
    return fields | {"positions": np.tile(np.arange(length), (count, 1))}


def _make_texts(config: RunConfig, count: int) -> Fields:
    length = config.task.seq_len
    tokens = np.zeros((count, length), np.int64)
    return {"tokens": tokens, "length": np.full(count, length), **_label("label", count)}


def _make_rows(config: RunConfig, count: int) -> Fields:
    features = np.zeros((count, num_inputs(config, None)), np.float32)
    return {"features": features, **_label("target", count)}


def _label(name: str, count: int) -> dict[str, Any]:
    return {name: np.zeros(count, np.int64), "weights": np.ones(count, np.float32)}


_FIELDS: dict[str, Callable[[RunConfig, int], Fields]] = {
    "causal_lm": _make_sequences,
    "text_classification": _make_texts,
    "tabular_classification": _make_rows,
    "tabular_regression": _make_rows,
}


def longest_sequence(config: RunConfig) -> int:
    return max([config.task.seq_len, *(phase.seq_len or 0 for phase in config.data.phases)])
