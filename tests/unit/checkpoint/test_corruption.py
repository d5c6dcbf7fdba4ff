"""Damage anywhere in a checkpoint, of this form or of the one before it, is noticed, named, and never loaded."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash

from orchestrator.checkpoint import layout
from orchestrator.checkpoint.found import list_checkpoints, newest_sound, verify
from orchestrator.checkpoint.layout import CHUNK_BYTES
from orchestrator.checkpoint.reader import StateReader, open_checkpoint
from orchestrator.core.errors import CheckpointDamaged
from tests.fakes.saving import MadeUpModel, make_model, save_all, small_model, split

NAME = "step-00000007-g0002"


def save(folder: Path, model: MadeUpModel, world: int = 3) -> Path:
    save_all(folder, split(model, world, random.Random(0)))
    return folder / NAME


def save_as_before(folder: Path, model: MadeUpModel, world: int = 3) -> Path:
    """As the version before did: one checksum of each whole file."""
    path = save(folder, model, world)
    manifest = json.loads((path / "manifest.json").read_bytes())
    for rank in range(world):
        record = json.loads((path / layout.record_name(rank)).read_bytes())
        del record["chunks"]
        record["xxh3_128"] = xxhash.xxh3_128_hexdigest((path / layout.data_name(rank)).read_bytes())
        (path / layout.record_name(rank)).write_bytes(layout.to_bytes(record))
        manifest["records"][rank] = layout.digest(layout.to_bytes(record))
    (path / "manifest.json").write_bytes(layout.to_bytes(manifest))
    (path / "COMMIT").write_bytes(layout.commit_bytes(layout.to_bytes(manifest)))
    return path


both_forms = pytest.mark.parametrize("save", [save, save_as_before])


def load(path: Path, model: MadeUpModel) -> None:
    """Everything, and it is what was saved."""
    reader: StateReader = open_checkpoint(path)
    try:
        for (name, state), values in model.values.items():
            assert reader.read(name, state, 0, values.numel()).equal(values)
    finally:
        reader.close()


@both_forms
def test_both_forms_are_sound_and_loaded(tmp_path: Path, save: Callable[..., Path]) -> None:
    model = make_model([((3, 5), "trainable", "bfloat16"), ((CHUNK_BYTES // 2,), "buffer", "float32")])
    path = save(tmp_path, model, 2)
    assert verify(path) == []
    assert newest_sound(tmp_path) == (path, [])
    assert [one.problem for one in list_checkpoints(tmp_path)] == [""]
    load(path, model)


@pytest.mark.parametrize("file", ["COMMIT", "manifest.json", "rank-00001.json"])
def test_every_changed_byte_of_the_small_files_is_noticed(tmp_path: Path, file: str) -> None:
    path = save(tmp_path, small_model())
    whole = (path / file).read_bytes()
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1 << (at % 8)
        (path / file).write_bytes(changed)
        assert verify(path), f"byte {at}"
    (path / file).write_bytes(whole)
    assert verify(path) == []


@both_forms
def test_a_thousand_flips_anywhere_are_noticed_and_never_loaded(tmp_path: Path, save: Callable[..., Path]) -> None:
    chance, model = random.Random(1), small_model()
    path = save(tmp_path, model, 2)
    files = {file: file.read_bytes() for file in sorted(path.iterdir())}
    places = [(file, at) for file, data in files.items() for at in range(len(data))]
    for file, at in chance.choices(places, k=500):
        flipped = bytearray(files[file])
        flipped[at] ^= 1 << chance.randrange(8)
        file.write_bytes(flipped)
        assert len(verify(path)) == 1
        with pytest.raises(CheckpointDamaged):
            load(path, model)
        file.write_bytes(files[file])
    load(path, model)


@both_forms
def test_cut_and_grown_files_are_noticed_and_named(tmp_path: Path, save: Callable[..., Path]) -> None:
    chance, model = random.Random(1), small_model()
    path = save(tmp_path, model)
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        for length in [0, 1, len(whole) - 1, *chance.choices(range(len(whole)), k=20)]:
            file.write_bytes(whole[:length])
            [problem] = verify(path)
            assert str(path) in problem
            assert newest_sound(tmp_path, thoroughly=False)[0] is None
        file.write_bytes(whole + b"\0")
        assert verify(path)
        assert newest_sound(tmp_path, thoroughly=False)[0] is None
        file.write_bytes(whole)
    load(path, model)


@pytest.mark.parametrize("file", ["COMMIT", "manifest.json", "rank-00002.json", "rank-00002.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, file: str) -> None:
    path = save(tmp_path, small_model())
    (path / file).unlink()
    (problem,) = verify(path)
    assert re.search(rf"{re.escape(file)}: (is missing|cannot be opened)", problem)
    with pytest.raises(CheckpointDamaged, match=re.escape(file)):
        load(path, small_model())


def test_two_files_that_were_exchanged_are_noticed(tmp_path: Path) -> None:
    path = save(tmp_path, small_model(), 2)
    first, second = (path / layout.record_name(rank) for rank in range(2))
    swapped = second.read_bytes(), first.read_bytes()
    first.write_bytes(swapped[0])
    second.write_bytes(swapped[1])
    assert verify(path)
