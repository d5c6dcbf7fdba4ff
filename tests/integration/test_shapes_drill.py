"""The whole way of a state, engine -> slot -> another engine, for parameters of every shape.

hypothesis draws models inside three processes at once, without chance and shrinking, so that all draw the same."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from orchestrator.checkpoint.slot import Slot
from orchestrator.train.engine import warm
from orchestrator.train.reform import dissolve, form
from tests.fakes.gang import run_gang
from tests.fakes.memory_source import MemorySource
from tests.fakes.reforming import formation, snap
from tests.fakes.slot_source import read_slots
from tests.fakes.tiny_model import gather, tiny_config

pytestmark = [pytest.mark.cluster, pytest.mark.long]

RANKS, EXAMPLES = 3, 60
SHAPES = st.one_of(
    st.just(()),
    st.sampled_from([(1,), (2,), (0,), (3, 0), (1, 1, 1), (17,), (127,), (1021,), (31, 37), (64, 64)]),
    st.lists(st.integers(1, 13), min_size=1, max_size=3).map(tuple),
)
BUFFERS = st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool])


class WentWrong(BaseException):
    """No Exception, so that hypothesis does not run the example again: the other processes would not."""


class MadeUp(nn.Module):
    """Parameters that are only summed; `learns` says which of them learn. The first one always does."""

    def __init__(
        self, shapes: list[tuple[int, ...]], learns: list[bool], buffers: list[tuple[Any, torch.dtype]]
    ) -> None:
        super().__init__()
        for number, (shape, learning) in enumerate(zip(shapes, learns, strict=True)):
            self.register_parameter(f"p{number}", nn.Parameter(torch.empty(shape), requires_grad=learning))
        for number, (shape, dtype) in enumerate(buffers):
            self.register_buffer(f"b{number}", torch.ones(shape, dtype=dtype))

    def forward(self, scale: torch.Tensor) -> torch.Tensor:
        return sum((parameter.float() * scale).sin().sum() for parameter in self.parameters())


@st.composite
def models(draw: st.DrawFn) -> dict[str, Any]:
    shapes = [(5, 7), *draw(st.lists(SHAPES, max_size=5))]
    return {
        "shapes": shapes,
        "learns": [True, *(draw(st.integers(0, 3)) > 0 for _ in shapes[1:])],
        "buffers": draw(st.lists(st.tuples(SHAPES, BUFFERS), max_size=2)),
    }


def move_all(rank: int, most: int, store: Any) -> int:
    warm("cpu", threads=1)
    done: list[str] = []

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        made_up=models(),
        places=st.lists(st.tuples(st.integers(0, 3), st.integers(1, RANKS)), min_size=2, max_size=2),
        precision=st.sampled_from(["fp32", "bf16"]),
        optim=st.sampled_from(["adamw", "sgd", "lion"]),
    )
    def move(made_up: dict[str, Any], places: list[tuple[int, int]], precision: str, optim: str) -> None:
        name = f"{len(done)}: {places} {precision} {optim} {made_up}"
        done.append(name)
        try:
            move_one(rank, store, name, made_up, places, precision, optim)
        except Exception as error:
            raise WentWrong(name) from error

    move()
    return len(done)


def move_one(
    rank: int, store: Any, name: str, made_up: dict[str, Any], places: list[Any], precision: str, optim: str
) -> None:
    """From the first place to the second by slots; what is read there is what was looked at."""
    (stage, size), (next_stage, next_size) = places
    slot = Slot.create("shapes")
    if rank < size:
        place = formation(
            rank, size, store, f"{name} before", tiny_config(stage, precision, optim), lambda: MadeUp(**made_up)
        )
        engine = form(place, initial_values(made_up))
        for step in range(2):
            engine.backward(engine.forward(scale=torch.tensor(1.0 + step)) / 100)
            engine.step(1e-2)
        snap(engine, place.world, slot, 2)
        kept = gather(engine, place.world)
        store.set(f"{name} {rank}", slot.path)
        dissolve(engine)
    if rank < next_size:
        config = tiny_config(next_stage, precision, optim)
        place = formation(rank, next_size, store, f"{name} after", config, lambda: MadeUp(**made_up))
        source = read_slots([store.get(f"{name} {other}").decode() for other in range(size)])
        engine = form(place, source)
        moved = gather(engine, place.world)
        if rank < size:
            assert moved.same_as(kept)
        engine.backward(engine.forward(scale=torch.tensor(3.0)) / 100)
        assert engine.step(1e-2).applied
        source.close()
        dissolve(engine)
    store.set(f"{name} left {rank}", "")
    store.wait([f"{name} left {other}" for other in range(RANKS)])
    slot.close()


def initial_values(made_up: dict[str, Any]) -> MemorySource:
    module = MadeUp(**made_up)
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.data.normal_()
    return MemorySource.of_module(module)


@pytest.mark.timeout(700)
def test_parameters_of_every_shape_move_between_worlds_and_stages() -> None:
    assert run_gang(RANKS, move_all, deadline_s=600.0) == [EXAMPLES] * RANKS
