"""Archives: good ones keep their bytes, scattered or big ones are packed again, broken ones are named."""

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.core.errors import BadInput, DataError
from tests.fakes.imports import read_members, read_shards, run_import
from tests.fakes.shards import write_tar
from tests.unit.importing.test_import_lines import zstd

GOOD = [("a.txt", b"alpha"), ("a.cls", b"0"), ("b.txt", b""), ("b.cls", b"1")]
SCATTERED = [("a.txt", b"alpha"), ("b.txt", b"beta"), ("a.cls", b"0"), ("b.cls", b"1")]


def pack(path: Path, members: list[tuple[str, bytes]], compress: Callable[[bytes], bytes] = gzip.compress) -> bytes:
    """A compressed tar; returns the tar inside."""
    write_tar(path, members)
    data = path.read_bytes()
    path.write_bytes(compress(data))
    return data


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("a.tar.gz", gzip.compress),
        ("a.tgz", gzip.compress),
        ("a.tar.bz2", bz2.compress),
        ("a.tar.xz", lzma.compress),
        ("a.tar.zst", zstd),
        ("A.TAR.GZ", gzip.compress),
        ("a.tar", bytes),
    ],
)
def test_a_good_tar_keeps_its_bytes(tmp_path: Path, name: str, compress: Callable[[bytes], bytes]) -> None:
    inside = pack(tmp_path / name, GOOD, compress)
    report = run_import(tmp_path / name, tmp_path / "out")
    assert (tmp_path / "out" / "s-000000.tar").read_bytes() == inside
    assert (report.shards, report.samples) == (1, 2)


def test_archives_of_a_folder_stay_apart_in_order_of_their_names(tmp_path: Path) -> None:
    inside = [pack(tmp_path / "in" / f"{name}.tar.gz", [(f"{name}.txt", b"x")]) for name in "abc"]
    run_import(tmp_path / "in", tmp_path / "out")
    assert [path.read_bytes() for path in sorted((tmp_path / "out").glob("*.tar"))] == inside


def test_scattered_keys_are_brought_together(tmp_path: Path) -> None:
    pack(tmp_path / "a.tar.gz", SCATTERED)
    run_import(tmp_path / "a.tar.gz", tmp_path / "out")
    assert list(read_members(tmp_path / "out").items()) == [*GOOD[:2], ("b.txt", b"beta"), ("b.cls", b"1")]


def test_a_big_tar_is_cut_between_samples(tmp_path: Path) -> None:
    members = [(f"{i:03d}.{suffix}", bytes([i]) * 900) for i in range(40) for suffix in ("bin", "txt")]
    pack(tmp_path / "a.tar.gz", members)
    run_import(tmp_path / "a.tar.gz", tmp_path / "bytes", shard_bytes=20_000)
    shards = read_shards(tmp_path / "bytes")
    assert len(shards) > 4
    assert all(len(shard) % 2 == 0 for shard in shards.values())
    assert list(read_members(tmp_path / "bytes").items()) == members
    run_import(tmp_path / "a.tar.gz", tmp_path / "samples", shard_samples=25)
    assert [len(shard) for shard in read_shards(tmp_path / "samples").values()] == [50, 30]


def test_members_that_belong_to_no_sample_are_counted(tmp_path: Path) -> None:
    pack(tmp_path / "a.tar.gz", [*SCATTERED, ("README", b"hello"), ("__meta__/x.json", b"{}")])
    report = run_import(tmp_path / "a.tar.gz", tmp_path / "out")
    assert report.left_out.counts == {"member without a suffix": 2}
    assert len(read_members(tmp_path / "out")) == 4


def test_folders_in_a_tar_are_no_fault(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        folder = tarfile.TarInfo("d")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, data in [("d/x.txt", b"x"), ("d/y.txt", b"y"), ("d/x.cls", b"0")]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    run_import(tmp_path / "a.tar.gz", tmp_path / "out")
    assert read_members(tmp_path / "out") == {"d/x.txt": b"x", "d/x.cls": b"0", "d/y.txt": b"y"}


@pytest.mark.parametrize(
    "members",
    [
        [("a.txt", b"1"), ("b.txt", b"2"), ("a.txt", b"3")],
        [("a.txt", b"1"), ("a.TXT", b"3"), ("b.txt", b"2")],
    ],
)
def test_a_key_that_comes_twice_is_named_or_counted(tmp_path: Path, members: list[tuple[str, bytes]]) -> None:
    pack(tmp_path / "a.tar.gz", members)
    with pytest.raises(DataError, match="two members of one suffix") as caught:
        run_import(tmp_path / "a.tar.gz", tmp_path / "fail")
    assert "a.tar.gz" in caught.value.where
    assert "'a'" in caught.value.where
    report = run_import(tmp_path / "a.tar.gz", tmp_path / "skip", on_bad="skip")
    assert report.left_out.counts == {"key has two members of one suffix": 1}
    assert read_members(tmp_path / "skip") == {"b.txt": b"2"}


def test_a_name_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "plain", [("aXX.txt", b"1"), ("b.txt", b"2")]).read_bytes()
    header = tar[:512].replace(b"aXX", b"a\xff\xfe").replace(b"aXX.txt", b"")
    header = header[:148] + b"        " + header[156:]
    tar = header[:148] + f"{sum(header):06o}\0 ".encode() + header[156:] + tar[512:]
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar))
    with pytest.raises(DataError, match="not UTF-8"):
        run_import(tmp_path / "a.tar.gz", tmp_path / "out")


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        ("stream cut", "cannot be read to its end"),
        ("tar cut", "the tar inside"),
        ("no end mark", "no end mark"),
        ("text", "the tar inside is no tar"),
        ("not gzip", "Not a gzipped file"),
        ("bit flipped", "cannot be read to its end"),
    ],
)
def test_a_broken_archive_is_named_or_counted(tmp_path: Path, damage: str, word: str) -> None:
    bad = tmp_path / "in" / "a.tar.gz"
    inside = pack(bad, [("a.txt", bytes(range(256)) * 40), *GOOD[2:]])
    whole = bad.read_bytes()
    members_end = -(-len(inside.rstrip(b"\0")) // 512) * 512
    bad.write_bytes(
        {
            "stream cut": whole[: len(whole) // 2],
            "tar cut": gzip.compress(inside[:3000]),
            "no end mark": gzip.compress(inside[:members_end]),
            "text": gzip.compress(b"this is no tar" * 100),
            "not gzip": inside,
            "bit flipped": whole[:100] + bytes([whole[100] ^ 1]) + whole[101:],
        }[damage]
    )
    pack(tmp_path / "in" / "b.tar.gz", GOOD)
    with pytest.raises(DataError, match=word) as caught:
        run_import(tmp_path / "in", tmp_path / "fail")
    assert caught.value.where == str(bad)
    report = run_import(tmp_path / "in", tmp_path / "skip", on_bad="skip")
    assert (report.shards, report.samples) == (1, 2)
    assert report.left_out.counts == {"input that cannot be read to its end": 1}
    assert not list((tmp_path / "skip").rglob("*.part"))


def test_fields_make_no_sense_for_archives(tmp_path: Path) -> None:
    pack(tmp_path / "a.tar.gz", GOOD)
    with pytest.raises(BadInput, match="choose fields of rows"):
        run_import(tmp_path / "a.tar.gz", tmp_path / "out", text="text")
