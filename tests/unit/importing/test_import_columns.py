"""Parquet: columns become members, row groups become jobs, and bad rows and files are named."""

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.core.errors import DataError
from tests.fakes.imports import read_members, run_import

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def write_table(path: Path, columns: dict[str, Any], **settings: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **settings)
    return path


def test_binary_columns_and_structs_of_bytes_are_copied(tmp_path: Path) -> None:
    images = pa.array([{"bytes": b"\x00jpeg", "path": "x.jpg"}, {"bytes": b"other", "path": None}], IMAGE)
    source = write_table(tmp_path / "a.parquet", {"image": images, "mask": [b"m0", b"m1"], "label": [3, 0]})
    run_import(source, tmp_path / "out", members=(("jpg", "image"), ("mask.png", "mask"), ("cls", "label")))
    assert read_members(tmp_path / "out") == {
        "00000-000000000000.jpg": b"\x00jpeg",
        "00000-000000000000.mask.png": b"m0",
        "00000-000000000000.cls": b"3",
        "00000-000000000001.jpg": b"other",
        "00000-000000000001.mask.png": b"m1",
        "00000-000000000001.cls": b"0",
    }


def test_row_groups_are_cut_into_jobs_and_rows_numbered_on(tmp_path: Path) -> None:
    columns = {"text": [f"row {i} " + "x" * 500 for i in range(100)], "n": list(range(100))}
    source = write_table(tmp_path / "a.parquet", columns, row_group_size=7, compression="none", use_dictionary=False)
    report = run_import(source, tmp_path / "out", text="text", shard_bytes=16_384)
    members = read_members(tmp_path / "out")
    texts = {name: data.decode().split()[1] for name, data in members.items() if name.endswith(".txt")}
    assert texts == {f"00000-{i:012d}.txt": str(i) for i in range(100)}
    assert json.loads(members["00000-000000000099.json"]) == {"n": 99}
    assert report.shards > 5


def test_the_rest_holds_dates_and_decimals_as_text(tmp_path: Path) -> None:
    day = datetime.date(2024, 5, 17)
    source = write_table(tmp_path / "a.parquet", {"text": ["t"], "day": [day], "price": [Decimal("1.50")]})
    run_import(source, tmp_path / "out", text="text")
    rest = read_members(tmp_path / "out")["00000-000000000000.json"]
    assert json.loads(rest) == {"day": "2024-05-17", "price": "1.50"}


@pytest.mark.parametrize("image", [pa.array([b"x"]), pa.array([{"bytes": b"x", "path": ""}], IMAGE)])
def test_bytes_among_the_rest_are_refused_with_the_way_out(tmp_path: Path, image: pa.Array) -> None:
    source = write_table(tmp_path / "a.parquet", {"text": ["t"], "image": image})
    with pytest.raises(DataError, match="column image holds bytes") as caught:
        run_import(source, tmp_path / "out", text="text")
    assert "--member jpg=image" in caught.value.remedy
    run_import(source, tmp_path / "dropped", text="text", drop_rest=True)
    assert list(read_members(tmp_path / "dropped")) == ["00000-000000000000.txt"]


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    source = write_table(tmp_path / "a.parquet", {"body": ["t"], "id": ["x"]})
    with pytest.raises(DataError, match="has no column text") as caught:
        run_import(source, tmp_path / "out", text="text")
    assert "body, id" in caught.value.remedy


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"bytes": None, "path": "x.jpg"}, "field image names a file instead of holding it"),
        ({"bytes": b"", "path": None}, "field image is empty"),
        (None, "field image is null"),
    ],
)
def test_a_bad_row_is_named_or_counted(tmp_path: Path, value: Any, reason: str) -> None:
    good = {"bytes": b"x", "path": None}
    columns = {"image": pa.array([good, good, value, good], IMAGE)}
    source = write_table(tmp_path / "a.parquet", columns, row_group_size=1)
    with pytest.raises(DataError, match=reason) as caught:
        run_import(source, tmp_path / "fail", members=(("jpg", "image"),))
    assert f"{source}, row 2" in caught.value.where
    report = run_import(source, tmp_path / "skip", members=(("jpg", "image"),), on_bad="skip")
    assert (report.samples, report.left_out.counts) == (3, {reason: 1})


def test_a_list_becomes_json_only_where_the_suffix_says_so(tmp_path: Path) -> None:
    source = write_table(tmp_path / "a.parquet", {"boxes": [[1, 2], [3]]})
    with pytest.raises(DataError, match="is a list or an object") as caught:
        run_import(source, tmp_path / "fail", members=(("txt", "boxes"),))
    assert "--member boxes.json=boxes" in caught.value.remedy
    run_import(source, tmp_path / "out", members=(("boxes.json", "boxes"),))
    assert [json.loads(data) for data in read_members(tmp_path / "out").values()] == [[1, 2], [3]]


@pytest.mark.parametrize("damage", ["cut", "other", "empty"])
def test_a_file_that_is_no_whole_parquet_is_named_or_counted(tmp_path: Path, damage: str) -> None:
    whole = write_table(tmp_path / "in" / "b.parquet", {"text": ["t"] * 100}).read_bytes()
    bad = tmp_path / "in" / "a.parquet"
    bad.write_bytes({"cut": whole[: len(whole) // 2], "other": b"no parquet at all" * 10, "empty": b""}[damage])
    with pytest.raises(DataError, match="cannot be read as parquet") as caught:
        run_import(tmp_path / "in", tmp_path / "fail", text="text")
    assert caught.value.where == str(bad)
    report = run_import(tmp_path / "in", tmp_path / "skip", text="text", on_bad="skip")
    assert report.samples == 100
    assert report.left_out.counts == {"input that cannot be read to its end": 1}


def test_a_damaged_page_is_found(tmp_path: Path) -> None:
    rows = [f"text {i}" * 50 for i in range(500)]
    source = write_table(
        tmp_path / "a.parquet", {"text": rows}, write_page_checksum=True, compression="none", use_dictionary=False
    )
    data = bytearray(source.read_bytes())
    data[len(data) // 2] ^= 1
    source.write_bytes(data)
    with pytest.raises(DataError, match="cannot be read as parquet"):
        run_import(source, tmp_path / "out", text="text")
