"""What is read is what was written, from any range; damage anywhere is noticed and named."""

import json
import os
import random
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from orchestrator.checkpoint import layout
from orchestrator.checkpoint.found import list_checkpoints, newest_sound
from orchestrator.checkpoint.fragments import TensorInfo
from orchestrator.checkpoint.layout import Placed
from orchestrator.checkpoint.reader import StateReader, open_checkpoint
from orchestrator.core.errors import CheckpointDamaged
from tests.fakes.saving import FACTS, TensorSpec, make_model, save_all, small_model, split

NAME = "step-00000007-g0002"
shapes = st.lists(st.integers(0, 7), max_size=3).map(tuple)
kinds = st.sampled_from(["trainable", "frozen", "buffer"])
dtypes = st.sampled_from(["float64", "float32", "float16", "bfloat16", "int64", "int8", "uint8", "bool"])


def save_small(folder: Path, step: int = 7, world: int = 3, generation: int = 2) -> Path:
    save_all(folder, split(small_model(), world, random.Random(0)), step, generation)
    return folder / f"step-{step:08d}-g{generation:04d}"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(shapes, kinds, dtypes), min_size=1, max_size=5), st.integers(1, 4), st.randoms())
def test_any_range_reads_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, specs: list[TensorSpec], world: int, chance: random.Random
) -> None:
    model = make_model(specs)
    folder = tmp_path_factory.mktemp("checkpoints")
    save_all(folder, split(model, world, chance))
    reader = open_checkpoint(folder / NAME)
    assert reader.tensors == model.infos
    for (name, state), values in model.values.items():
        start = chance.randint(0, values.numel())
        count = chance.randint(0, values.numel() - start)
        assert state in reader.states(name)
        for first, size in ((start, count), (0, values.numel())):
            read = reader.read(name, state, first, size)
            assert read.dtype == values.dtype
            assert torch.equal(read, values[first : first + size])
    reader.close()
    shutil.rmtree(folder)


def test_a_checkpoint_says_what_it_is_of(tmp_path: Path) -> None:
    reader = open_checkpoint(save_small(tmp_path))
    assert (reader.step, reader.generation, reader.world_size) == (7, 2, 3)
    assert reader.facts == FACTS
    assert reader.scalars("layers.0/odd name.weight") == {"step": 7.0}
    assert reader.scalars("unknown") == {}
    assert reader.states("unknown") == ()
    assert reader.engine() == {"loss_scale": 65536.0}


def test_rank_files_are_what_safetensors_reads(tmp_path: Path) -> None:
    path = save_small(tmp_path)
    model = small_model()
    seen = 0
    for file in path.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            assert opened.metadata() == {"format": "1"}
            for key in opened.keys():  # noqa: SIM118 (it is no dict)
                name, state, start = key.rsplit("/", 2)
                values = opened.get_tensor(key)
                assert torch.equal(values, model.values[name, state][int(start) : int(start) + values.numel()])
                seen += values.numel()
    assert seen == sum(values.numel() for values in model.values.values())


def test_only_the_files_that_are_needed_are_looked_at(tmp_path: Path) -> None:
    path = save_small(tmp_path)
    record = json.loads((path / "rank-00001.json").read_bytes())
    (path / "rank-00000.safetensors").unlink()
    held = record["fragments"][0]
    reader = open_checkpoint(path)
    assert len(reader.read(held["name"], held["state"], held["start"], held["numel"])) == held["numel"]
    reader.close()


class AwaySource:
    """Bytes in a store that is down."""

    def __init__(self) -> None:
        self.asked, self.back = threading.Event(), threading.Event()

    def read_into(self, into: memoryview, begin: int) -> None:
        self.asked.set()
        self.back.wait(10.0)

    def close(self) -> None:
        """Nothing is open."""


def test_whoever_gives_up_reading_does_not_wait_for_a_store_that_is_down() -> None:
    source = AwaySource()
    placed = [Placed("weight", "master", start, 4, "float32", 4 * start) for start in (0, 4)]
    info = TensorInfo((8,), "float32", "trainable")
    reader = StateReader(7, 2, 1, FACTS, {"weight": info}, {}, {}, [(placed[:1], source), (placed[1:], source)])
    reading = threading.Thread(target=reader.read, args=("weight", "master", 0, 8))
    reading.start()
    assert source.asked.wait(10.0)
    began = time.monotonic()
    reader.close()
    assert time.monotonic() - began < 1.0
    source.back.set()
    reading.join()


def test_a_range_outside_the_tensor_is_refused(tmp_path: Path) -> None:
    reader = open_checkpoint(save_small(tmp_path))
    with pytest.raises(ValueError, match="which has 35"):
        reader.read("layers.0/odd name.weight", "fp32", 30, 6)
    with pytest.raises(CheckpointDamaged, match="no state 'momentum'"):
        reader.read("layers.0/odd name.weight", "momentum", 0, 1)


def test_a_damaged_file_is_refused_when_its_bytes_are_asked_for(tmp_path: Path) -> None:
    path = save_small(tmp_path, world=1)
    os.truncate(path / "rank-00000.safetensors", 50)
    reader = open_checkpoint(path)
    with pytest.raises(CheckpointDamaged, match=r"rank-00000\.safetensors: has 50 bytes, \d+ were written"):
        reader.read("layers.0/odd name.weight", "fp32", 0, 35)


def test_the_newest_sound_one_is_found_and_the_damaged_ones_are_named(tmp_path: Path) -> None:
    oldest, sound, flipped, torn = (save_small(tmp_path, step) for step in (5, 10, 20, 30))
    (flipped / "rank-00001.safetensors").write_bytes(b"nonsense")
    (torn / "COMMIT").unlink()
    found, problems = newest_sound(tmp_path)
    assert found == sound
    assert [str(path) in problem for path, problem in zip((torn, flipped), problems, strict=True)] == [True, True]
    listed = list_checkpoints(tmp_path)
    assert [one.path for one in listed] == [oldest, sound, flipped]
    assert [bool(one.problem) for one in listed] == [False, False, True]
    assert [one.metrics for one in listed] == [{"loss": 2.5}, {"loss": 2.5}, {}]


def test_of_one_step_the_higher_generation_is_newer(tmp_path: Path) -> None:
    newer, older = save_small(tmp_path, 5, generation=3), save_small(tmp_path, 5, generation=2)
    assert [one.path for one in list_checkpoints(tmp_path)] == [older, newer]
    assert newest_sound(tmp_path) == (newer, [])


def test_without_checkpoints_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "something else").mkdir()
    assert list_checkpoints(tmp_path / "nowhere") == []
    assert newest_sound(tmp_path) == (None, [])


def test_validations_come_back_and_those_of_the_own_step_are_listed(tmp_path: Path) -> None:
    rows = ({"step": 4, "loss": 3.0}, {"step": 7, "loss": 2.5, "accuracy": 0.5})
    save_all(tmp_path, split(small_model(), 1, random.Random(0)), facts=replace(FACTS, validations=rows))
    [found] = list_checkpoints(tmp_path)
    assert open_checkpoint(found.path).facts.validations == rows
    assert found.metrics == rows[1]


def test_a_checkpoint_of_a_version_without_validations_is_read(tmp_path: Path) -> None:
    path = save_small(tmp_path)
    manifest = json.loads((path / "manifest.json").read_bytes())
    del manifest["validations"]
    (path / "manifest.json").write_bytes(layout.to_bytes(manifest))
    (path / "COMMIT").write_bytes(layout.commit_bytes(layout.to_bytes(manifest)))
    assert open_checkpoint(path).facts.validations == ()
    [found] = list_checkpoints(tmp_path)
    assert (found.metrics, found.problem) == ({"loss": 2.5}, "")
