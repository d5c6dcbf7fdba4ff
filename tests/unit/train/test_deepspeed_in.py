"""Checkpoints of DeepSpeed itself become Longhaul's, and training goes on as if nothing had been."""

import pickle
from pathlib import Path

import pytest
import torch

from orchestrator.checkpoint.found import verify
from orchestrator.checkpoint.reader import open_checkpoint
from orchestrator.config.model import ModelSection
from orchestrator.core.errors import BadInput, DataError
from orchestrator.train.exchange.deepspeed import open_deepspeed, take_in
from tests.fakes.bare_deepspeed import KEYS, LR, SAVED_AT, STEPS, train_bare
from tests.fakes.gang import run_gang
from tests.fakes.tiny_model import in_world, make_engine, tiny_config, train_step

WORLD = 2


def tiny(stage: int = 0, precision: str = "fp32", *, build: str = "tests.fakes.tiny_model.build_tiny", **keys):
    config = tiny_config(stage, precision, optim={"name": "adamw", "weight_decay": 0.1, "betas": [0.9, 0.95]}, **keys)
    return config.model_copy(update={"model": ModelSection.model_validate({"custom": {"build": build}})})


def config_of(kind: str):
    keys = {key: value for key, value in KEYS[kind].items() if key != "bf16"}
    stage = keys["zero_optimization"]["stage"]
    return tiny(stage, "bf16" if "bf16" in KEYS[kind] else "fp32", **keys)


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> tuple[Path, dict[str, list[float]]]:
    folder = tmp_path_factory.mktemp("bare")
    return folder, run_gang(WORLD, train_bare, folder, list(KEYS))[0]


@pytest.fixture(scope="module")
def taken(bare, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("taken")
    found = {}
    for kind in KEYS:
        state = open_deepspeed(bare[0] / kind, config_of(kind), None).state
        found[kind] = take_in(state, config_of(kind), ["one"], folder / kind, generation=1)
    return found


def go_on(rank, size, store, goals) -> list[list[float]]:
    """Losses of the remaining steps of each (checkpoint, config)."""
    found = []
    for number, (path, config) in enumerate(goals):
        with in_world(rank, size, store, f"on {number} {size}") as world:
            reader = open_checkpoint(path)
            engine = make_engine(config, world)
            engine.insert(reader)
            reader.close()
            found.append([train_step(engine, world, step, LR)[0] for step in range(reader.step, STEPS)])
            engine.drop()
    return found


def test_training_goes_on_as_deepspeed_itself_does(bare, taken):
    goals = [(taken[kind], config_of(kind)) for kind in KEYS]
    for kind, losses in zip(KEYS, run_gang(WORLD, go_on, goals)[0], strict=True):
        assert losses == pytest.approx(bare[1][kind][SAVED_AT:], abs=1e-5), kind


def test_any_stage_goes_on_at_any_other_and_on_another_world(bare, taken):
    goals = [(taken[f"stage {stage}"], tiny((stage + 2) % 4)) for stage in range(4)]
    for losses in run_gang(3, go_on, goals)[0]:
        assert losses == pytest.approx(bare[1]["stage 0"][SAVED_AT:], abs=1e-5)


def test_what_is_taken_in_is_a_sound_checkpoint_of_that_step(taken):
    for path in taken.values():
        assert verify(path) == []
        reader = open_checkpoint(path)
        assert reader.step == SAVED_AT
        assert reader.scalars("model.norm.weight") == {"step": float(SAVED_AT)}
        kinds = {name: info.kind for name, info in reader.tensors.items()}
        assert (kinds["model.layers.0.mlp.up_proj.weight"], kinds["seen"]) == ("frozen", "buffer")
        reader.close()
