import errno

import pyarrow as pa
import pytest
import xxhash

from orchestrator.core.errors import DataError
from orchestrator.storage import workplace
from orchestrator.storage.tables import encode_table, map_table, store_table
from orchestrator.storage.workplace import store_bytes


def test_table_and_note_come_back(tmp_path):
    table = pa.table({"a": [1, 2], "b": ["x", None]})
    store_table(tmp_path / "t.arrow", table, {"stamp": "s"})
    found, note = map_table(tmp_path / "t.arrow")
    assert found.equals(table)
    assert note == {"format": 1, "stamp": "s"}


def test_same_table_gives_same_bytes_however_it_was_put_together():
    whole = pa.table({"a": [1, 2, 3]})
    parts = pa.concat_tables([whole.slice(0, 1), whole.slice(1)])
    assert encode_table(whole, {"n": 1}) == encode_table(parts, {"n": 1})


@pytest.mark.parametrize("harm", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 100])
def test_damaged_table_is_named_with_what_to_do(tmp_path, harm):
    path = tmp_path / "t.arrow"
    store_table(path, pa.table({"a": list(range(100))}), {})
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(DataError, match=r"t\.arrow.*is damaged(.|\n)*longhaul prepare"):
        map_table(path)


def test_flipped_bit_is_found_by_checksum(tmp_path):
    path = tmp_path / "t.arrow"
    data = encode_table(pa.table({"a": list(range(100))}), {})
    checksum = xxhash.xxh3_128_hexdigest(data)
    store_bytes(path, data)
    map_table(path, checksum=checksum)
    path.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    with pytest.raises(DataError, match="checksum differs"):
        map_table(path, checksum=checksum)


def test_missing_table_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.arrow: file is missing"):
        map_table(tmp_path / "none.arrow")


def test_full_disk_names_file_and_key(tmp_path, monkeypatch):
    def refuse(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(workplace, "publish_bytes", refuse)
    with pytest.raises(DataError, match=r"x\.bin: cannot be written: No space left(.|\n)*data\.work"):
        store_bytes(tmp_path / "x.bin", b"1")


def test_work_place_that_is_a_file_is_named(tmp_path):
    (tmp_path / "work").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot be written(.|\n)*data\.work"):
        store_bytes(tmp_path / "work" / "index" / "x.bin", b"1")
