"""Checkpoints in an object store: written, found, verified, read and thrown away there, whatever fails."""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.checkpoint.behind import Behind
from orchestrator.checkpoint.copying import copy_checkpoint
from orchestrator.checkpoint.found import list_checkpoints, newest_sound, verify_on
from orchestrator.checkpoint.keep import prune
from orchestrator.checkpoint.layout import CHUNK_BYTES
from orchestrator.checkpoint.reader import StateReader, open_checkpoint
from orchestrator.checkpoint.remote_shelf import RemoteShelf
from orchestrator.checkpoint.shelf import LocalShelf, open_shelf
from orchestrator.checkpoint.vault import Committed, Kept, Written
from orchestrator.config.load import load_config
from orchestrator.config.running import KeepSection
from orchestrator.core.errors import BadInput, CheckpointDamaged, StoreDown
from orchestrator.storage import objects
from orchestrator.storage.stores import StoreSettings
from tests.fakes.s3_server import S3Server
from tests.fakes.saving import fill_slot, make_model, save_all, small_model, split

PART_BYTES = 5 * 2**20
NAME = "step-00000007-g0002"
CONFIG = Path(__file__).parents[3] / "configs" / "tiny.yaml"


@pytest.fixture
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def settings(server: S3Server) -> StoreSettings:
    return StoreSettings(options=json.dumps(server.options), timeout_s=10, retry_for_s=5)


@pytest.fixture
def shelf(server: S3Server, settings: StoreSettings) -> RemoteShelf:
    return RemoteShelf(server.url("kept/run"), settings)


@pytest.fixture
def impatient(server: S3Server, settings: StoreSettings) -> RemoteShelf:
    return RemoteShelf(server.url("kept/run"), replace(settings, retry_for_s=0.1))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch) -> None:
    monkeypatch.setattr(objects, "PART_BYTES", PART_BYTES)


def big_model():
    """Its one part is an upload of three pieces, and two chunks."""
    return make_model([((PART_BYTES // 4 * 2 + 1000,), "buffer", "float32")])


def test_what_is_written_is_found_verified_and_read(shelf, server, settings) -> None:
    model = small_model()
    outcome = save_all(shelf, split(model, 3, random.Random(0)))
    assert (outcome.path, outcome.problem) == (server.url(f"kept/run/{NAME}"), "")
    [found] = list_checkpoints(shelf)
    assert (found.path, found.name, found.problem, found.metrics) == (outcome.path, NAME, "", {"loss": 2.5})
    assert newest_sound(shelf) == (outcome.path, [])
    reader = open_checkpoint(outcome.path, settings)
    for (name, state), values in model.values.items():
        assert reader.read(name, state, 0, values.numel()).equal(values)
    reader.close()


def test_a_large_part_is_sent_in_parts_and_only_what_is_needed_is_read(shelf, server, settings) -> None:
    model = big_model()
    outcome = save_all(shelf, split(model, 1, random.Random(2)))
    assert (server.count("BEGIN"), server.count("PART"), server.count("END")) == (1, 3, 1)
    assert server.uploads == {}
    (((name, state), values),) = model.values.items()
    reader = open_checkpoint(outcome.path, settings)
    server.asked.clear()
    assert reader.read(name, state, 5, 10).equal(values[5:15])
    assert sum(one.end - one.begin for one in server.asked if one.kind == "GET") == CHUNK_BYTES
    assert reader.read(name, state, 0, values.numel()).equal(values)
    reader.close()


@pytest.mark.parametrize(
    ("kind", "fault"),
    [("PUT", "500"), ("BEGIN", "503"), ("PART", "reset"), ("PART", "503"), ("END", "500"), ("LIST", "503")],
)
def test_a_request_that_fails_is_asked_again(shelf, server, kind, fault) -> None:
    server.plan(fault, fault, kind=kind)
    assert not save_all(shelf, split(big_model(), 1, random.Random(2))).problem
    assert not server.faults
    assert verify_on(shelf, NAME) == []


def test_an_upload_that_is_answered_too_late_is_whole(shelf, server, settings) -> None:
    """The store has ended it, and the answer was lost: a second try is told that there is no such upload."""
    folder = shelf._objects
    data = random.Random(0).randbytes(100)
    server.objects["kept/run/x"] = data
    folder._complete("x", "upload-gone", [], len(data))
    with pytest.raises(Exception, match=r"NoSuchUpload|is not there"):
        folder._complete("x", "upload-gone", [], len(data) + 1)


def test_a_store_that_is_down_costs_this_checkpoint_only(shelf, impatient, server) -> None:
    ranks = split(small_model(), 1, random.Random(0))
    save_all(shelf, ranks, step=1)
    slots = [fill_slot(ranks[0], 0, 1, step) for step in (2, 3)]
    vault = Behind(slots, impatient, keep=KeepSection(last=1), best_by="loss")
    server.down = "503"
    vault.keep(0, write=True)
    kept, written = answers(vault, 2)
    assert isinstance(kept, Kept)
    assert isinstance(written, Written)
    assert "no answer after" in written.problem
    vault.discard(0)  # it fails, too, and must not end the thread
    server.down = None
    vault.keep(1, write=True)
    assert answers(vault, 2)[1] == Written(step=3)
    vault.commit(1)
    [made] = answers(vault, 1)
    assert isinstance(made, Committed)
    assert made.problem == ""
    assert [one.step for one in list_checkpoints(shelf)] == [3]
    vault.close()


def read_all(reader: StateReader) -> None:
    for name, info in reader.tensors.items():
        for state in reader.states(name):
            reader.read(name, state, 0, info.numel)


def answers(vault: Behind, count: int):
    found = []
    while len(found) < count:
        found += vault.answers(wait=True)
    return found


def test_a_store_that_is_down_is_not_taken_for_one_without_checkpoints(shelf, impatient, server) -> None:
    save_all(shelf, split(small_model(), 1, random.Random(0)))
    server.plan(*["503"] * 100, kind="GET")  # a listing still works
    with pytest.raises(StoreDown):
        newest_sound(impatient)


def test_damage_in_a_store_is_noticed_and_the_one_before_is_taken(shelf, server, settings) -> None:
    ranks = split(small_model(), 2, random.Random(0))
    older, newer = (save_all(shelf, ranks, step=step).path for step in (1, 2))
    key = next(key for key in server.objects if "step-00000002" in key and key.endswith("00001.safetensors"))
    whole = server.objects[key]
    server.objects[key] = whole[:-1] + bytes([whole[-1] ^ 1])
    found, problems = newest_sound(shelf)
    assert found == older
    assert key in problems[0]
    assert newest_sound(shelf, thoroughly=False) == (newer, [])  # whoever reads it finds out
    reader = open_checkpoint(newer, settings)
    with pytest.raises(CheckpointDamaged, match="differ from those written"):
        read_all(reader)
    reader.close()
    server.objects[key] = whole[:-1]
    assert "size" in list_checkpoints(shelf)[1].problem
    del server.objects[key]
    assert newest_sound(shelf, thoroughly=False)[0] == older


def test_retention_and_leftovers_in_a_store(shelf, server) -> None:
    ranks = split(small_model(), 2, random.Random(0))
    server.objects["kept/run/step-00000000-g0001/rank-00000.safetensors"] = b"half"
    server.objects["kept/run-2/step-00000001-g0001/COMMIT"] = b"of another run"
    for step in range(1, 5):
        save_all(shelf, ranks, step=step)
    assert [path[-19:] for path in prune(shelf, KeepSection(last=2), "loss")] == [
        "step-00000001-g0002",
        "step-00000002-g0002",
    ]
    first = next(one.key for one in server.asked if one.kind == "DELETE" and "step-00000001" in one.key)
    assert first.endswith("COMMIT")
    names = {key.split("/")[2] for key in server.objects if key.startswith("kept/run/")}
    assert names == {"step-00000003-g0002", "step-00000004-g0002"}
    assert "kept/run-2/step-00000001-g0001/COMMIT" in server.objects


def test_copies_between_disk_and_store_are_whole(shelf, server, tmp_path) -> None:
    here, again = LocalShelf(tmp_path / "here"), LocalShelf(tmp_path / "again")
    save_all(here, split(big_model(), 2, random.Random(1)))
    copy_checkpoint(here, NAME, shelf)
    copy_checkpoint(shelf, NAME, again)
    files = {file.name: file.read_bytes() for file in (tmp_path / "here" / NAME).iterdir()}
    assert files == {file.name: file.read_bytes() for file in (tmp_path / "again" / NAME).iterdir()}
    assert files == {key.rpartition("/")[2]: data for key, data in server.objects.items()}
    with pytest.raises(BadInput, match="there is this checkpoint already"):
        copy_checkpoint(shelf, NAME, again)


def test_of_a_damaged_checkpoint_no_copy_is_made(shelf, server, tmp_path) -> None:
    here = LocalShelf(tmp_path)
    save_all(here, split(small_model(), 1, random.Random(0)))
    file = tmp_path / NAME / "rank-00000.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointDamaged):
        copy_checkpoint(here, NAME, shelf)
    assert list_checkpoints(shelf) == []


def test_a_config_says_where_checkpoints_lie(tmp_path) -> None:
    assert open_shelf(load_config(CONFIG).config, tmp_path).address("x") == tmp_path / "x"
    config = load_config(CONFIG, sets=["checkpoint.store=s3://bucket/kept/", "name=mine"]).config
    assert open_shelf(config, tmp_path).address("x") == "s3://bucket/kept/mine/x"
