"""What is imported can be used: the index takes it, preparing takes it, webdataset reads the same keys and bytes."""

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.core.words import ShardRef
from orchestrator.data.shards.index import index_shard
from orchestrator.prepare.run import prepare
from tests.fakes.imports import read_members, run_import, write_text_rows
from tests.fakes.shards import LOCAL, make_config, write_tar

COUNT = 40
TEXTS = {f"d{i:04d}": f"document {i} " + "word " * (i % 50) for i in range(COUNT)}


def import_lines(root: Path) -> None:
    run_import(write_text_rows(root / "a.jsonl", COUNT), root / "data", text="text", key="id", shard_bytes=8192)


def import_table(root: Path) -> None:
    pq.write_table(pa.table({"id": list(TEXTS), "text": list(TEXTS.values())}), root / "a.parquet")
    run_import(root / "a.parquet", root / "data", text="text", key="id", shard_bytes=8192)


def import_scattered_archive(root: Path) -> None:
    texts = [(f"{key}.txt", text.encode()) for key, text in TEXTS.items()]
    tar = write_tar(root / "a.tar.gz", [*texts, *((f"{key}.cls", b"0") for key in TEXTS)])
    tar.write_bytes(gzip.compress(tar.read_bytes()))
    run_import(tar, root / "data", shard_bytes=16_384)


def import_good_archive(root: Path) -> None:
    tar = write_tar(root / "a.tar.gz", [(f"{key}.txt", text.encode()) for key, text in TEXTS.items()])
    tar.write_bytes(gzip.compress(tar.read_bytes()))
    run_import(tar, root / "data")


TEXT_KINDS = [import_lines, import_table, import_scattered_archive, import_good_archive]


def import_images(root: Path) -> None:
    for i in range(12):
        (root / "in" / f"class{i % 3}").mkdir(parents=True, exist_ok=True)
        (root / "in" / f"class{i % 3}" / f"{i}.jpg").write_bytes(b"jpeg" * (i + 1))
    run_import(root / "in", root / "data", shard_bytes=8192)


def read_by_index(root: Path) -> dict[str, bytes]:
    """Members by the extents that the index found; refuses anything that is not whole and good."""
    found = {}
    for ordinal, path in enumerate(sorted((root / "data").glob("*.tar"))):
        size_bytes = path.stat().st_size
        shard = ShardRef(ordinal=ordinal, source=0, name=path.name, url=str(path), size_bytes=size_bytes)
        index = index_shard(shard, root / "work", "fail", LOCAL)
        data = path.read_bytes()
        for key, pieces in zip(index.keys(), index.members(), strict=True):
            found.update({f"{key}.{one.suffix}": data[one.offset : one.offset + one.size] for one in pieces})
    return found


@pytest.mark.parametrize("make", [*TEXT_KINDS, import_images])
def test_the_index_takes_every_shard(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    members = read_members(tmp_path / "data")
    assert read_by_index(tmp_path) == members
    assert len(members) >= 24


@pytest.mark.parametrize("make", TEXT_KINDS)
def test_preparing_takes_every_text(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    manifest = prepare(make_config(tmp_path))
    assert int(manifest.kept("train").sum()) == COUNT


@pytest.mark.parametrize("make", TEXT_KINDS)
def test_texts_are_those_that_went_in(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    members = read_members(tmp_path / "data")
    assert {key: members[f"{key}.txt"].decode() for key in TEXTS} == TEXTS


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its files open
@pytest.mark.parametrize("make", [*TEXT_KINDS, import_images])
def test_webdataset_reads_the_same_keys_and_bytes(tmp_path: Path, make: Callable[[Path], None]) -> None:
    import webdataset

    make(tmp_path)
    urls = [str(path) for path in sorted((tmp_path / "data").glob("*.tar"))]
    read = {
        f"{sample['__key__']}.{suffix}": data
        for sample in webdataset.WebDataset(urls, shardshuffle=False)
        for suffix, data in sample.items()
        if not re.match("__", suffix)
    }
    assert read == read_members(tmp_path / "data")
