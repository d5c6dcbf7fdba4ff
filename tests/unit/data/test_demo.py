import tarfile

import pytest

from orchestrator.core.errors import DataError
from orchestrator.data.shards import demo
from orchestrator.data.shards.demo import make_text_demo
from orchestrator.storage.local import list_local
from tests.fakes.shards import read_tree


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "text"
    make_text_demo(folder)
    return folder


def test_demo_is_some_twenty_megabytes_in_several_shards(folder):
    listed = list_local(str(folder))
    assert 8 <= len(listed) <= 40
    assert 5e6 < sum(one.size_bytes for one in listed) < 30e6


def test_samples_are_text_with_their_path(folder):
    with tarfile.open(folder / "text-0000.tar") as tar:
        infos = list(tar)
    keys = [info.name.rsplit("/", 1)[-1].split(".", 1) for info in infos]
    assert [suffix for _, suffix in keys] == ["json", "txt"] * (len(keys) // 2)
    assert {(info.mtime, info.uname, info.mode) for info in infos} == {(0, "longhaul", 0o644)}


def test_same_installation_gives_same_bytes(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "TEXT_BYTES", 2_000_000)
    make_text_demo(tmp_path / "a")
    make_text_demo(tmp_path / "b" / "text")
    assert read_tree(tmp_path / "a") == read_tree(tmp_path / "b" / "text") != {}


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    make_text_demo(tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []


def test_of_two_makers_one_wins_and_nothing_is_left_over(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "TEXT_BYTES", 100_000)
    write = demo._write_shards

    def write_while_another_finishes(name, folder):
        write(name, folder)
        monkeypatch.setattr(demo, "_write_shards", write)
        make_text_demo(tmp_path / "text")

    monkeypatch.setattr(demo, "_write_shards", write_while_another_finishes)
    make_text_demo(tmp_path / "text")
    assert [path.name for path in tmp_path.iterdir()] == ["text"]
    assert list_local(str(tmp_path / "text"))


def test_a_maker_that_dies_leaves_nothing_that_is_trusted(tmp_path, monkeypatch):
    def die(_name, folder):
        (folder / "text-0000.tar").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_write_shards", die)
    with pytest.raises(KeyboardInterrupt):
        make_text_demo(tmp_path / "text")
    assert not (tmp_path / "text").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        make_text_demo(tmp_path / "file" / "text")
