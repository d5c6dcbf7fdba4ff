import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.tariterators import group_by_keys, tar_file_iterator

from orchestrator.core.errors import DataError
from orchestrator.core.words import ShardRef
from orchestrator.data.shards.index import ShardIndex, group_members, index_shard
from orchestrator.data.shards.tarscan import scan_tar
from tests.fakes.shards import LOCAL, read_tree, write_tar


def ref(path: Path) -> ShardRef:
    return ShardRef(ordinal=0, source=0, name=f"s/{path.name}", url=str(path), size_bytes=path.stat().st_size)


def samples_of(path, work, on_bad="fail"):
    index = index_shard(ref(path), work, on_bad, LOCAL)
    data = path.read_bytes()
    pairs = zip(index.keys(), index.members(), strict=True)
    return [(key, {p.suffix: data[p.offset : p.offset + p.size] for p in pieces}) for key, pieces in pairs]


def test_members_of_one_key_are_one_sample(tmp_path):
    members = [("a/b.c/x.Txt", b"1"), ("a/b.c/x.seg.png", b"2"), ("y.txt", b"3"), ("README", b"-"), ("__meta__", b"-")]
    members += [("__info__/z.txt", b"-"), (".hidden.txt", b"-"), ("y.json", b"4")]
    path = write_tar(tmp_path / "t.tar", members)
    expected = [("a/b.c/x", {"txt": b"1", "seg.png": b"2"}), ("y", {"txt": b"3", "json": b"4"})]
    assert samples_of(path, tmp_path / "work") == expected


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "d/a", "d.e/b", "__x__", "__y", "", "."]),
            st.sampled_from(["", ".txt", ".T", ".a.b", "."]),
        ),
        max_size=8,
        unique=True,
    )
)
def test_grouping_is_that_of_webdataset(parts):
    names = [base + end for base, end in parts if base + end and not (base + end).endswith("/")]
    names.sort(key=lambda name: name.split(".")[0])
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(bytes([number])))
    data = out.getvalue()
    samples = group_members(scan_tar(data, "t"))
    if samples.bad:
        return  # webdataset raises, or gives half samples
    members = ShardIndex(table=samples.as_table(), problem="", stamp="").members()
    ours = [
        (key, {p.suffix: data[p.offset : p.offset + p.size] for p in pieces})
        for key, pieces in zip(samples.key, members, strict=True)
    ]
    stream = ({**one, "__url__": "t"} for one in tar_file_iterator(io.BytesIO(data)))
    theirs = [
        (
            sample["__key__"],
            {name: value for name, value in sample.items() if name not in ("__key__", "__url__", "__local_path__")},
        )
        for sample in group_by_keys(stream)
    ]
    assert ours == theirs


def test_extents_cover_the_samples(tmp_path):
    path = write_tar(tmp_path / "t.tar", [("a.txt", b"1" * 600), ("a.json", b"2"), ("b.txt", b"3")])
    table = index_shard(ref(path), tmp_path / "work", "fail", LOCAL).table
    assert table["offset"].to_pylist() == [0, 512 + 1024 + 1024]
    assert table["size"].to_pylist() == [512 + 1024 + 1024, 1024]


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([("a.txt", b"1"), ("b.txt", b"2"), ("a.json", b"3")], "a: scattered key.*2 places"),
        ([("a.txt", b"1"), ("a.TXT", b"2")], "a: repeated suffix.*txt"),
        ([("a\udce9.txt", b"1")], "not UTF-8"),
    ],
)
def test_bad_samples_fail_with_shard_and_key_or_are_marked(tmp_path, members, says):
    path = write_tar(tmp_path / "t.tar", members)
    with pytest.raises(DataError, match=says) as caught:
        index_shard(ref(path), tmp_path / "work", "fail", LOCAL)
    assert "s/t.tar" in str(caught.value)
    assert "data.on_bad=skip" in caught.value.remedy
    bad = index_shard(ref(path), tmp_path / "work", "skip", LOCAL).bad()
    assert [reason is not None for reason in bad] == ([True, False, True] if len(members) == 3 else [True])


def test_bad_shard_fails_or_is_marked(tmp_path):
    path = tmp_path / "t.tar"
    path.write_bytes(b"this is no tar")
    with pytest.raises(DataError, match=r"s/t\.tar.*NotATar"):
        index_shard(ref(path), tmp_path / "work", "fail", LOCAL)
    index = index_shard(ref(path), tmp_path / "work", "skip", LOCAL)
    assert len(index) == 0
    assert index.problem.startswith("NotATar")
    assert index.members() == index.keys() == []


def test_index_is_reused_until_the_shard_changes(tmp_path):
    path = write_tar(tmp_path / "t.tar", [("a.txt", b"1")])
    assert samples_of(path, tmp_path / "work") == [("a", {"txt": b"1"})]
    before = read_tree(tmp_path / "work")
    stat = path.stat()
    write_tar(path, [("b.txt", b"2")])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same size, same time: taken for unchanged
    assert index_shard(ref(path), tmp_path / "work", "fail", LOCAL).keys() == ["a"]
    assert read_tree(tmp_path / "work") == before
    os.utime(path, (5, 5))
    assert samples_of(path, tmp_path / "work") == [("b", {"txt": b"2"})]
