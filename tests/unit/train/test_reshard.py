"""Fragments out of and into engines of every stage. One gang of three processes goes through all cases once."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import CheckpointDamaged, TrainingFailed
from orchestrator.train.engine import warm
from orchestrator.train.layouts import layout_of
from orchestrator.train.look import cut_row
from tests.fakes.gang import run_gang
from tests.fakes.tiny_model import (
    gather,
    in_world,
    initial_source,
    make_engine,
    pretend_fp16_works,
    tiny_config,
    tokens_of,
    train_step,
    with_moving_scale,
)

pytestmark = pytest.mark.cluster  # nearly a minute

CPU = {"device": "cpu"}
LR = {"adamw": 1e-2, "sgd": 1e-1, "adagrad": 1e-2, "lion": 1e-3, "grouped": 1e-2}
GROUPED = {
    "name": "adam",
    "weight_decay": 0.1,
    "l1": 1e-3,
    "no_decay": ["*.q_proj.*"],
    "layer_decay": 0.8,
    "rates": {"*.norm.weight": 2.0},
}
BOUND = {"fp32": 2e-6, "bf16": 2e-2}  # relative, of losses after moving to another world or stage


@dataclass(frozen=True)
class Setting:
    world: int
    stage: int
    precision: str
    optim: str = "adamw"
    deepspeed: tuple[tuple[str, Any], ...] = ()
    accumulation: int = 1

    @property
    def config(self) -> Any:
        optim = GROUPED if self.optim == "grouped" else self.optim
        config = tiny_config(self.stage, self.precision, optim, **dict(self.deepspeed))
        return with_moving_scale(config) if self.precision == "fp16" else config

    def __str__(self) -> str:
        more = "-".join(str(value) for _, value in self.deepspeed)
        return f"world{self.world}-stage{self.stage}-{self.precision}-{self.optim}-{self.accumulation}{more}"


REFORMS = [
    *(
        Setting(2, stage, precision, optim)
        for stage in range(4)
        for precision in ("fp32", "bf16")
        for optim in ("adamw", "sgd")
    ),
    Setting(2, 0, "fp32", "adagrad"),
    Setting(2, 0, "bf16", "lion"),
    Setting(2, 1, "bf16", "grouped"),
    Setting(2, 2, "bf16", "adagrad"),
    Setting(2, 3, "fp32", "grouped"),
    Setting(2, 3, "bf16", "lion"),
    *(Setting(2, stage, "fp16") for stage in range(4)),
    Setting(3, 3, "bf16"),
    *(
        Setting(2, stage, "bf16", optim, deepspeed=(("zero_optimization", {"offload_optimizer": CPU}),))
        for stage, optim in ((2, "adamw"), (3, "adamw"), (2, "grouped"), (3, "adagrad"))
    ),
    Setting(2, 3, "bf16", deepspeed=(("zero_optimization", {"offload_optimizer": CPU, "offload_param": CPU}),)),
    Setting(2, 3, "fp32", deepspeed=(("zero_optimization", {"stage3_param_persistence_threshold": 0}),)),
    Setting(2, 3, "bf16", deepspeed=(("zero_optimization", {"sub_group_size": 3000}),)),
    Setting(2, 2, "bf16", deepspeed=(("zero_optimization", {"parameter_alignment": True, "overlap_comm": True}),)),
    Setting(2, 1, "bf16", deepspeed=(("data_types", {"grad_accum_dtype": "fp32"}),), accumulation=3),
    Setting(1, 2, "bf16", accumulation=2),
]
MOVES = [
    (Setting(2, 1, precision), Setting(3, 2, precision))
    for precision in ("fp32", "bf16")
] + [
    (Setting(3, 2, "fp32"), Setting(1, 0, "fp32")),
    (Setting(1, 0, "fp32"), Setting(2, 3, "fp32")),
    (Setting(1, 0, "bf16"), Setting(3, 3, "bf16")),
    (Setting(2, 3, "bf16"), Setting(1, 0, "bf16")),
    (Setting(2, 3, "fp32"), Setting(3, 1, "fp32")),
    (Setting(3, 3, "bf16", "sgd"), Setting(2, 3, "bf16", "sgd")),
    (Setting(2, 3, "fp32", "adagrad"), Setting(3, 1, "fp32", "adagrad")),
    (Setting(2, 0, "fp32", "grouped"), Setting(3, 3, "fp32", "grouped")),
]  # fmt: skip


def run_all(rank: int, size: int, store: Any) -> dict[str, Any]:
    """In every process: each case on the first ranks, the others wait for the next case that needs them."""
    warm("cpu", threads=1)
    pretend_fp16_works()
    results: dict[str, Any] = {}
    for number, setting in enumerate(REFORMS):
        if rank < setting.world:
            results[str(setting)] = reform(rank, setting, store, f"reform{number}")
    for number, (here, there) in enumerate(MOVES):
        results[f"{here} to {there}"] = move(rank, here, there, store, f"move{number}")
    results["lacking"] = insert_lacking(rank, store)
    results["l1"] = [penalise(rank, store, stage) for stage in range(4)]
    return results


def reform(rank: int, setting: Setting, store: Any, name: str) -> tuple[list[float], list[float], bool]:
    """Losses of steps 3 to 5 unbroken, and after look, drop, rebuild, insert; whether the state came back whole."""
    lr, accumulation = LR[setting.optim], setting.accumulation
    with in_world(rank, setting.world, store, f"{name}/before") as world:
        engine = make_engine(setting.config, world, accumulation=accumulation)
        engine.insert(initial_source())
        for step in range(3):
            train_step(engine, world, step, lr, accumulation)
        kept = gather(engine, world)
        unbroken = [train_step(engine, world, step, lr, accumulation)[0] for step in range(3, 6)]
        engine.drop()
    with in_world(rank, setting.world, store, f"{name}/after") as world:
        engine = make_engine(setting.config, world, accumulation=accumulation)
        engine.insert(kept)
        whole = gather(engine, world).same_as(kept)
        again = [train_step(engine, world, step, lr, accumulation)[0] for step in range(3, 6)]
        engine.drop()
    return unbroken, again, whole


def move(rank: int, here: Setting, there: Setting, store: Any, name: str) -> tuple[list[float], list[float], bool]:
    """Like reform, into another world and stage. Rank 0 is in both worlds and hands the state to the new one."""
    unbroken: list[float] = []
    kept = None
    if rank < here.world:
        with in_world(rank, here.world, store, f"{name}/before") as world:
            engine = make_engine(here.config, world)
            engine.insert(initial_source())
            for step in range(3):
                train_step(engine, world, step, LR[here.optim])
            kept = gather(engine, world)
            unbroken = [train_step(engine, world, step, LR[here.optim])[0] for step in range(3, 6)]
            engine.drop()
    again: list[float] = []
    whole = True
    if rank < there.world:
        with in_world(rank, there.world, store, f"{name}/after") as world:
            box = [kept]
            torch.distributed.broadcast_object_list(box, src=0)
            engine = make_engine(there.config, world)
            engine.insert(box[0])
            whole = gather(engine, world).same_as(box[0])
            again = [train_step(engine, world, step, LR[there.optim])[0] for step in range(3, 6)]
            engine.drop()
    return unbroken, again, whole


def insert_lacking(rank: int, store: Any) -> str:
    with in_world(rank, 3, store, "lacking") as world:
        engine = make_engine(tiny_config(2), world)
        try:
            engine.insert(initial_source().without("model.norm.weight"))
        except CheckpointDamaged as error:
            return str(error)
        finally:
            engine.drop()
    return ""


def penalise(rank: int, store: Any, stage: int) -> float:
    """How far a step on gradients of zero ends from where the L1 penalty alone would take the weights, those of one
    layer at twice the rate."""
    with in_world(rank, 3, store, f"l1/{stage}") as world:
        optim = {"name": "sgd", "l1": 0.25, "rates": {"*.layers.1.*": 2.0}}
        engine = make_engine(tiny_config(stage, optim=optim), world, accumulation=2)
        engine.insert(initial_source())
        before = gather(engine, world)
        for tokens in tokens_of(0).chunk(world.size)[world.rank].chunk(2):
            engine.backward(engine.forward(input_ids=tokens, labels=tokens).loss * 0.0)
        engine.step(1.0)
        after, infos = gather(engine, world), engine.look().tensors
        engine.drop()
    decaying = {name for name, info in infos.items() if info.kind == "trainable" and len(info.shape) > 1}
    apart = 0.0
    for (name, state), values in before.values.items():
        strength = 0.25 * (name in decaying) * (2.0 if ".layers.1." in name else 1.0)
        moved = values - after.values[name, state]
        apart = max(apart, float((moved - strength * values.sign()).abs().max()))
    return apart


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    ranks = run_gang(3, run_all, deadline_s=240.0)
    first: dict[str, Any] = ranks[0]
    return first


@pytest.mark.parametrize("setting", REFORMS, ids=str)
def test_training_goes_on_bit_equal_after_look_drop_rebuild_insert(results: dict[str, Any], setting: Setting) -> None:
    unbroken, again, whole = results[str(setting)]
    assert whole
    assert again == unbroken


@pytest.mark.parametrize(("here", "there"), MOVES, ids=lambda setting: str(setting))
def test_state_moves_whole_to_another_world_and_stage(results: dict[str, Any], here: Setting, there: Setting) -> None:
    unbroken, again, whole = results[f"{here} to {there}"]
    assert whole
    assert again == pytest.approx(unbroken, rel=BOUND[here.precision])


@pytest.mark.parametrize("stage", range(4))
def test_an_l1_penalty_is_added_once_an_update_on_any_rank(results: dict[str, Any], stage: int) -> None:
    assert results["l1"][stage] < 1e-6


def test_a_source_that_lacks_a_parameter_is_refused_by_name(results: dict[str, Any]) -> None:
    assert "model.norm.weight" in results["lacking"]


def test_an_unknown_optimizer_wrapper_is_refused() -> None:
    with pytest.raises(TrainingFailed, match="wrapper object"):
        layout_of(object())


@given(st.lists(st.integers(0, 50), max_size=8), st.integers(1, 9))
def test_a_cut_row_covers_every_element_once_in_nearly_equal_parts(numels: list[int], size: int) -> None:
    row = {str(number): numel for number, numel in enumerate(numels)}
    parts = [cut_row(row, rank, size) for rank in range(size)]
    for name, numel in row.items():
        held = [place for part in parts for place in range(part[name][0], sum(part[name]))]
        assert held == list(range(numel))
    sizes = [sum(count for _, count in part.values()) for part in parts]
    assert max(sizes) - min(sizes) <= 1
