import os
from pathlib import Path

import pytest

from orchestrator.core.errors import DataError
from orchestrator.storage.local import list_local, map_local, stamp_local
from tests.fakes.shards import write_texts


@pytest.fixture
def folder(tmp_path):
    for name in ("b.tar", "a.tar", "deep/er/c.tar"):
        write_texts(tmp_path / "data" / name, {"k": name})
    (tmp_path / "data" / "notes.md").write_text("no shard")
    (tmp_path / "data" / ".a.tar.part").write_text("half written")
    return tmp_path / "data"


def test_folder_is_listed_recursively_and_sorted(folder):
    listed = list_local(str(folder))
    assert [one.name for one in listed] == ["a.tar", "b.tar", "deep/er/c.tar"]
    assert all(one.url == f"{folder}/{one.name}" and one.size_bytes == Path(one.url).stat().st_size for one in listed)


def test_glob_and_folder_give_the_same_names(folder):
    assert [one.name for one in list_local(f"{folder}/*.tar")] == ["a.tar", "b.tar"]
    assert list_local(f"{folder}/**/*.tar") == list_local(f"file://{folder}/")


def test_single_shard_is_named_by_its_file(folder):
    assert [one.name for one in list_local(str(folder / "a.tar"))] == ["a.tar"]


def test_links_that_lead_back_do_not_loop(folder):
    (folder / "deep" / "back").symlink_to(folder)
    assert len(list_local(str(folder))) == 3


def test_stamp_changes_with_time_and_size(folder):
    before = stamp_local(str(folder / "a.tar"))
    os.utime(folder / "a.tar", (1, 1))
    assert stamp_local(str(folder / "a.tar")) != before
    assert [one.stamp for one in list_local(str(folder / "a.tar"))] == [stamp_local(str(folder / "a.tar"))]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("missing", "does not exist"),
        ("shard-{000..009}.tar", "a glob"),
        ("*.zip", "holds no tar shards"),
        ("notes.md", "does not end in .tar"),
    ],
)
def test_unusable_path_names_key_path_and_remedy(folder, monkeypatch, path, says):
    monkeypatch.chdir(folder)
    with pytest.raises(DataError, match=says) as caught:
        list_local(path, "data.train[3].path")
    assert f"data.train[3].path={path}" in str(caught.value)
    assert caught.value.remedy


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no tar shards"):
        list_local(str(tmp_path))


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.tar.zst", "x.TAR.XZ"])
def test_compressed_shard_among_others_is_refused(folder, name):
    (folder / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"compressed.*\n.*longhaul import"):
        list_local(str(folder))


def test_shard_that_is_gone_is_named(tmp_path):
    for function in (map_local, stamp_local):
        with pytest.raises(DataError, match=r"gone\.tar"):
            function(str(tmp_path / "gone.tar"))
