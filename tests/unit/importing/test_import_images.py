"""Folders of images: class folders, flat folders, and what does not belong there."""

import json
from pathlib import Path

import pytest

from orchestrator.core.errors import DataError
from tests.fakes.imports import read_members, read_shards, run_import


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_class_folders_become_numbers_of_sorted_names(tmp_path: Path) -> None:
    source = write_files(
        tmp_path / "in", {"zebra/1.jpg": b"z1", "ant/9.JPEG": b"a9", "ant/2.png": b"a2", "Bee/x.webp": b"bx"}
    )
    run_import(source, tmp_path / "out")
    assert read_members(tmp_path / "out") == {
        "Bee/x.webp": b"bx",
        "Bee/x.cls": b"0",
        "ant/2.png": b"a2",
        "ant/2.cls": b"1",
        "ant/9.jpg": b"a9",
        "ant/9.cls": b"1",
        "zebra/1.jpg": b"z1",
        "zebra/1.cls": b"2",
    }
    classes = json.loads((tmp_path / "out" / "classes.json").read_text())
    assert classes == {"format": 1, "classes": ["Bee", "ant", "zebra"]}


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"1.jpg": b"1", "2.png": b"2"})
    run_import(source, tmp_path / "out")
    assert read_members(tmp_path / "out") == {"1.jpg": b"1", "2.png": b"2"}
    assert not (tmp_path / "out" / "classes.json").exists()


def test_files_of_another_kind_are_counted_and_hidden_ones_are_not_seen(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"a/1.jpg": b"1", "a/notes.txt": b"", "README": b"", ".DS_Store": b""})
    report = run_import(source, tmp_path / "out")
    assert report.left_out.counts == {"file of another kind by its name": 2}


def test_an_empty_image_is_named_or_counted(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"a/1.jpg": b"1", "a/2.jpg": b""})
    with pytest.raises(DataError, match="file is empty") as caught:
        run_import(source, tmp_path / "fail")
    assert str(source / "a" / "2.jpg") in caught.value.where
    assert run_import(source, tmp_path / "skip", on_bad="skip").left_out.counts == {"file is empty": 1}


def test_dots_in_names_are_replaced_and_clashes_named(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"v1.0/img.001.jpg": b"1"})
    run_import(source, tmp_path / "out")
    assert list(read_members(tmp_path / "out")) == ["v1-0/img-001.jpg", "v1-0/img-001.cls"]
    write_files(source, {"v1.0/img-001.png": b"2"})
    with pytest.raises(DataError, match="key was in the shard already") as caught:
        run_import(source, tmp_path / "clash")
    assert "v1-0/img-001" in caught.value.where


@pytest.mark.parametrize(
    ("files", "word"),
    [
        ({"1.jpg": b"1", "a/2.jpg": b"2"}, "beside images without a class"),
        ({"train/a/1.jpg": b"1"}, "lies too deep"),
    ],
)
def test_folders_that_are_no_classes_are_refused(tmp_path: Path, files: dict[str, bytes], word: str) -> None:
    with pytest.raises(DataError, match=word):
        run_import(write_files(tmp_path / "in", files), tmp_path / "out")


def test_images_of_one_job_share_shards_up_to_the_limits(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {f"{i % 3}/{i:03d}.jpg": bytes([i + 1]) * 1000 for i in range(30)})
    run_import(source, tmp_path / "out", shard_bytes=20_480)
    shards = read_shards(tmp_path / "out")
    assert [len(shard) for shard in shards.values()] == [14, 14, 14, 14, 4]
    assert all(path.stat().st_size <= 20_480 for path in (tmp_path / "out").glob("*.tar"))


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"a/1.jpg": b"1"})
    write_files(tmp_path / "elsewhere", {"2.jpg": b"2"})
    (source / "b").symlink_to(tmp_path / "elsewhere")
    (source / "a" / "loop").symlink_to(source)
    run_import(source, tmp_path / "out")
    assert {name for name in read_members(tmp_path / "out") if name.endswith("jpg")} == {"a/1.jpg", "b/2.jpg"}
