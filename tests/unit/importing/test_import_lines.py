"""JSON lines: what a line becomes, how a big file is cut, and which lines are bad."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from orchestrator.core.errors import BadInput, DataError
from orchestrator.importing import lines
from tests.fakes.imports import read_members, read_shards, run_import, write_rows, write_text_rows


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def test_text_key_members_and_the_rest_become_members(tmp_path: Path) -> None:
    row = {"id": 7, "body": "Grüße", "label": 3, "tags": ["a"], "note": None, "ok": True}
    source = write_rows(tmp_path / "a.jsonl", [row])
    run_import(source, tmp_path / "out", text="body", key="id", members=(("cls", "label"), ("tags.json", "tags")))
    members = read_members(tmp_path / "out")
    assert list(members) == ["7.txt", "7.cls", "7.tags.json", "7.json"]
    assert members["7.txt"].decode() == "Grüße"
    assert members["7.cls"] == b"3"
    assert json.loads(members["7.tags.json"]) == ["a"]
    assert json.loads(members["7.json"]) == {"note": None, "ok": True}


def test_dropped_rest_leaves_no_json(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", [{"text": "x", "more": 1}])
    run_import(source, tmp_path / "out", text="text", drop_rest=True)
    assert [name.partition(".")[2] for name in read_members(tmp_path / "out")] == ["txt"]


def test_keys_without_a_field_say_input_and_byte(tmp_path: Path) -> None:
    write_rows(tmp_path / "in" / "a.jsonl", [{"text": "a"}, {"text": "b"}])
    write_rows(tmp_path / "in" / "b.jsonl", [{"text": "c"}])
    run_import(tmp_path / "in", tmp_path / "out", text="text")
    assert list(read_members(tmp_path / "out")) == [
        "00000-000000000000.txt",
        "00000-000000000014.txt",
        "00001-000000000000.txt",
    ]


@pytest.mark.parametrize(
    ("suffix", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress), ("zst", zstd)]
)
def test_compressed_lines_give_the_same_samples(
    tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]
) -> None:
    plain = write_text_rows(tmp_path / "a.jsonl", 200)
    packed = tmp_path / f"b.jsonl.{suffix}"
    packed.write_bytes(compress(plain.read_bytes()))
    run_import(plain, tmp_path / "plain", text="text")
    run_import(packed, tmp_path / "packed", text="text")
    assert len(read_members(tmp_path / "plain")) == 400
    assert read_members(tmp_path / "packed") == read_members(tmp_path / "plain")


@pytest.mark.parametrize("shard_bytes", [4096, 5000, 9999, 70_000])
@pytest.mark.parametrize("ending", ["\n", ""])
def test_a_file_cut_by_bytes_loses_and_repeats_no_line(tmp_path: Path, shard_bytes: int, ending: str) -> None:
    source = write_text_rows(tmp_path / "a.jsonl", 300)
    source.write_text(source.read_text().rstrip("\n") + ending)
    report = run_import(source, tmp_path / "out", text="text", key="id", shard_bytes=shard_bytes)
    assert [name for name in read_members(tmp_path / "out") if name.endswith("txt")] == [
        f"d{i:04d}.txt" for i in range(300)
    ]
    assert report.samples == 300


def test_a_line_longer_than_several_parts_is_read_once(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", [{"t": "a"}, {"t": "b" * 30_000}, {"t": "c"}])
    run_import(source, tmp_path / "out", text="t", shard_bytes=4096)
    assert [len(data) for data in read_members(tmp_path / "out").values()] == [1, 30_000, 1]


def test_shards_keep_to_both_limits(tmp_path: Path) -> None:
    source = write_text_rows(tmp_path / "a.jsonl", 300)
    run_import(source, tmp_path / "bytes", text="text", shard_bytes=20_000)
    assert all(path.stat().st_size <= 20_000 for path in (tmp_path / "bytes").glob("*.tar"))
    run_import(source, tmp_path / "samples", text="text", shard_samples=70, drop_rest=True)
    assert [len(shard) for shard in read_shards(tmp_path / "samples").values()] == [70, 70, 70, 70, 20]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"id": "b", "text"', "is not JSON"),
        ("\udcff\udcfe".encode("utf-8", "surrogateescape"), "is not JSON"),
        ("[" * 200_000, "is not JSON"),
        ("[1, 2]", "is no JSON object"),
        ('{"id": "b"}', "has no field text"),
        ('{"id": "b", "text": null}', "field text is null"),
        ('{"id": "b", "text": 5}', "field text is no text"),
        ('{"text": "b"}', "has no field id"),
        ('{"id": 1.5, "text": "b"}', "field id is no text or whole number"),
        ('{"id": true, "text": "b"}', "field id is no text or whole number"),
        ('{"id": "a", "text": "b"}', "key was in the shard already"),
        ('{"id": "b.c", "text": "b"}', "key has a dot, which begins a suffix"),
        ('{"id": "x/", "text": "b"}', "key begins or ends with a slash"),
        ('{"id": "/x", "text": "b"}', "key begins or ends with a slash"),
        ('{"id": "", "text": "b"}', "key is empty"),
        ('{"id": "__b__", "text": "b"}', "key is of the form __x__, which readers pass over"),
        ('{"id": "b\\n", "text": "b"}', "key has characters that cannot be printed"),
        ('{"id": "\\ud800", "text": "b"}', "key has characters that cannot be printed"),
        ('{"id": "b", "text": "\\ud800"}', "text has half a surrogate pair, which is no text"),
    ],
)
def test_a_bad_line_is_named_or_counted(tmp_path: Path, line: str | bytes, reason: str) -> None:
    good = json.dumps({"id": "a", "text": "a"}).encode() + b"\n"
    bad = line if isinstance(line, bytes) else line.encode()
    source = tmp_path / "a.jsonl"
    source.write_bytes(good + b"\n" + bad + b"\n")
    with pytest.raises(DataError) as caught:
        run_import(source, tmp_path / "fail", text="text", key="id")
    assert caught.value.message == reason
    assert f"{source}, line 3" in caught.value.where
    assert "--on-bad skip" in caught.value.remedy
    report = run_import(source, tmp_path / "skip", text="text", key="id", on_bad="skip")
    assert report.left_out.counts == {"blank line": 1, reason: 1}
    assert f"{source}, line 3" in report.left_out.first[reason]
    assert list(read_members(tmp_path / "skip")) == ["a.txt"]


def test_a_key_with_folders_is_kept(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", [{"id": "v1.0/x", "text": "b"}])
    run_import(source, tmp_path / "out", text="text", key="id")
    assert list(read_members(tmp_path / "out")) == ["v1.0/x.txt"]


@pytest.mark.parametrize("keep", [0.5, 0.99])
@pytest.mark.parametrize(
    ("suffix", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress), ("zst", zstd)]
)
def test_a_compressed_file_cut_short_is_named(
    tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes], keep: float
) -> None:
    source = tmp_path / f"a.jsonl.{suffix}"
    data = compress(write_text_rows(tmp_path / "x", 200).read_bytes())
    source.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(DataError, match="cannot be read to its end") as caught:
        run_import(source, tmp_path / "out", text="text")
    assert caught.value.where == str(source)


def test_a_cut_file_can_be_skipped_beside_a_good_one(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    data = gzip.compress(write_text_rows(tmp_path / "x", 200).read_bytes())
    (tmp_path / "in" / "a.jsonl.gz").write_bytes(data[:20])
    (tmp_path / "in" / "b.jsonl.gz").write_bytes(data)
    report = run_import(tmp_path / "in", tmp_path / "out", text="text", on_bad="skip")
    assert report.samples == 200
    assert report.left_out.counts == {"input that cannot be read to its end": 1}
    assert "a.jsonl.gz" in report.left_out.first["input that cannot be read to its end"]


def test_a_file_that_is_not_compressed_as_its_name_says_is_named(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl.gz"
    source.write_bytes(b'{"text": "plain"}\n')
    with pytest.raises(DataError, match=r"Not a gzipped file") as caught:
        run_import(source, tmp_path / "out", text="text")
    assert "not what its name says" in caught.value.remedy


def test_an_endless_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST_LINE_BYTES", 1000)
    source = tmp_path / "a.jsonl"
    source.write_bytes(bytes(5000))
    with pytest.raises(DataError, match="longer than 1000 bytes"):
        run_import(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("wish", "word"),
    [
        ({"members": (("JPG", "image"),)}, "small letters"),
        ({"members": ((".jpg", "image"),)}, "leading dot"),
        ({"members": (("txt", "a"),), "text": "b"}, "another suffix"),
        ({"members": (("json", "a"),)}, "--drop-rest"),
    ],
)
def test_members_that_readers_could_not_tell_apart_are_refused(tmp_path: Path, wish: dict[str, Any], word: str) -> None:
    source = write_rows(tmp_path / "a.jsonl", [{"text": "x"}])
    with pytest.raises(BadInput) as caught:
        run_import(source, tmp_path / "out", **wish)
    assert word in caught.value.remedy
    assert not (tmp_path / "out").exists()


def test_long_and_foreign_keys_are_read_back(tmp_path: Path) -> None:
    keys = ["a" * 150, "é" * 60, "deep/" * 60 + "x"]
    source = write_rows(tmp_path / "a.jsonl", [{"id": key, "text": key} for key in keys])
    run_import(source, tmp_path / "out", text="text", key="id")
    assert read_members(tmp_path / "out") == {f"{key}.txt": key.encode() for key in keys}
