"""Arrow tables at rest: written whole, memory-mapped when read, with a JSON note in the schema's metadata."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from orchestrator.core.errors import DataError
from orchestrator.storage.workplace import store_bytes

_NOTE = b"longhaul"


def encode_table(table: pa.Table, note: dict[str, Any]) -> bytes:
    """The table's file; the same table and note give the same bytes."""
    note = {"format": 1, **note}
    table = table.replace_schema_metadata({_NOTE: json.dumps(note, sort_keys=True).encode()}).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def store_table(path: Path, table: pa.Table, note: dict[str, Any]) -> None:
    store_bytes(path, encode_table(table, note))


def map_table(path: Path, *, checksum: str | None = None, remedy: str = "") -> tuple[pa.Table, dict[str, Any]]:
    """The table and its note. With `checksum` (xxh3-128 of the file) every byte is verified first."""
    remedy = remedy or f"delete {path} and run longhaul prepare again"
    try:
        source = pa.memory_map(str(path))
        if checksum is not None and xxhash.xxh3_128_hexdigest(source.read_buffer()) != checksum:
            raise DataError("is damaged: its checksum differs", where=str(path), remedy=remedy)
        source.seek(0)
        table = pa.ipc.open_file(source).read_all()
        note = json.loads(table.schema.metadata[_NOTE])
    except FileNotFoundError as error:
        raise DataError("file is missing", where=str(path), remedy=remedy) from error
    except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise DataError(f"is damaged: {error}", where=str(path), remedy=remedy) from error
    if note.get("format") != 1:
        raise DataError(f"format is {note.get('format')!r}, this Longhaul reads 1", where=str(path), remedy=remedy)
    return table, note


def fold_rows(array: NDArray[Any]) -> pa.Array:
    """A column of numbers, or of rows of numbers."""
    if array.ndim == 1:
        return pa.array(array)
    flat = pa.array(np.ascontiguousarray(array).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, array.shape[1])


def unfold_rows(column: pa.ChunkedArray) -> NDArray[Any]:
    """What fold_rows was given, mapped where it can be."""
    whole = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if not pa.types.is_fixed_size_list(whole.type):
        return np.asarray(whole.to_numpy())
    flat = whole.flatten().to_numpy()
    return np.asarray(flat).reshape(len(whole), whole.type.list_size)
