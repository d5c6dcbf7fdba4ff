"""Slots: parts of snapshots in memory that outlives whoever wrote them."""

import random
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from orchestrator.checkpoint.fragments import RankState
from orchestrator.checkpoint.layout import CHUNK_BYTES
from orchestrator.checkpoint.part import Part, PartPlace
from orchestrator.checkpoint.slot import Slot, SlotState, hash_chunks
from orchestrator.core.words import World
from orchestrator.train.snapshot import Snapper
from tests.fakes.dying import do_until_killed
from tests.fakes.saving import FACTS, fill_slot, make_model, small_model, split


def test_another_process_reads_what_was_written() -> None:
    slot = fill_slot(split(small_model(), 1, random.Random(0))[0], 0, 1)
    other = Slot.open(slot.path)
    assert other.state is SlotState.SEALED
    assert other.part() == slot.part()
    assert other.part().place == PartPlace(generation=2, step=7, world_size=1, rank=0)
    assert bytes(other.body()) == bytes(slot.body())
    assert other.checks() == tuple(hash_chunks(slot.body()))


def test_its_bytes_are_a_safetensors_file() -> None:
    model = small_model()
    slot = fill_slot(split(model, 1, random.Random(0))[0], 0, 1)
    read = load(bytes(slot.body()))
    assert {name.rpartition("/")[0] for name in read} == {"/".join(place) for place in model.values}
    for (name, state), values in model.values.items():
        starts = sorted(int(key.rpartition("/")[2]) for key in read if key.rpartition("/")[0] == f"{name}/{state}")
        assert torch.equal(torch.cat([read[f"{name}/{state}/{start}"] for start in starts]), values)


def test_every_fragment_lies_where_the_part_says() -> None:
    ranks = split(make_model([((3,), "buffer", "bool"), ((5, 3), "trainable", "bfloat16")]), 2, random.Random(1))
    for rank, state in enumerate(ranks):
        slot = fill_slot(state, rank, 2)
        held = {(one.name, one.state, one.start): one.values for one in state.fragments}
        placed = slot.part().fragments
        assert {place[:3] for place in placed} == set(held)
        for place in placed:
            values = torch.frombuffer(
                bytearray(slot.body()), dtype=getattr(torch, place.dtype), count=place.numel, offset=place.begin
            )
            assert torch.equal(values, held[place[:3]])
            assert place.begin % values.element_size() == 0


def test_a_reader_follows_a_slot_that_grows() -> None:
    slot = fill_slot(split(small_model(), 1, random.Random(0))[0], 0, 1)
    reader = Slot.open(slot.path)
    before = reader.body()
    big = make_model([((CHUNK_BYTES // 2,), "buffer", "float32")])
    Snapper(World.flat(0, 1), 3).take(slot, split(big, 1, random.Random(0))[0], 8, FACTS)
    slot.seal()
    assert reader.part().generation == 3
    assert bytes(reader.body()) == bytes(slot.body())
    assert len(reader.checks()) == 3
    assert len(before) < len(reader.body())


def test_a_slot_that_is_being_filled_is_not_whole() -> None:
    slot = fill_slot(split(small_model(), 1, random.Random(0))[0], 0, 1)
    part = slot.part()
    slot.begin(part.size_bytes)
    assert not slot.is_whole
    slot.finish(part)
    assert slot.state is SlotState.WHOLE


def test_whoever_dies_while_writing_leaves_a_slot_that_is_whole_or_says_that_it_is_not() -> None:
    chance, slot = random.Random(0), Slot.create("test")
    models = [make_model([((300_000,), "buffer", "float32")], seed) for seed in (1, 2)]
    states: list[RankState] = [split(model, 1, random.Random(seed))[0] for seed, model in enumerate(models)]
    sound = [bytes(fill_slot(state, 0, 1, step).body()) for step, state in enumerate(states)]

    def write_forever() -> None:
        torch.set_num_threads(1)  # its pool of threads does not survive a fork
        own, snapper = Slot.open(slot.path), Snapper(World.flat(0, 1), 2)
        while True:
            for step, state in enumerate(states):
                snapper.take(own, state, step, FACTS)

    def wait_until_whole() -> None:
        while not slot.is_whole:
            time.sleep(0.001)

    seen = []
    for _ in range(40):
        slot.begin(1)
        do_until_killed(write_forever, after_s=0.004 * chance.random(), wait=wait_until_whole)
        seen.append(slot.is_whole)
        if slot.is_whole:
            assert bytes(slot.body()) == sound[slot.part().step]
    assert True in seen
    assert False in seen


def test_nothing_is_left_when_its_process_is_gone(tmp_path: Path) -> None:
    def create() -> None:
        slot = fill_slot(split(small_model(), 1, random.Random(0))[0], 0, 1)
        (tmp_path / "path.part").write_text(slot.path)
        (tmp_path / "path.part").rename(tmp_path / "path")
        time.sleep(60)

    def wait_until_created() -> None:
        while not (tmp_path / "path").exists():
            time.sleep(0.001)
        assert str(Path((tmp_path / "path").read_text()).readlink()).startswith("/memfd:longhaul")  # it is in no folder

    do_until_killed(create, after_s=0, wait=wait_until_created)
    with pytest.raises(FileNotFoundError):
        Slot.open((tmp_path / "path").read_text())


def test_what_a_part_says_comes_back_whole() -> None:
    part = fill_slot(split(small_model(), 1, random.Random(0))[0], 0, 1).part()
    assert Part.from_bytes(part.to_bytes()) == part
