"""Inputs in parquet: one sample a row. A file is cut by row groups, of which a few rows at a time are in memory."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.core.errors import DataError
from orchestrator.importing.rows import make_sample
from orchestrator.importing.sample import Input, Piece, Reject, Sample, Unreadable
from orchestrator.importing.wish import Wish

_BATCH_BYTES = 8 * 2**20
_BUFFER_BYTES = 2**20  # without it a column of a whole row group is read at once


def cut_rows(source: Input, number: int, wish: Wish) -> list[Piece]:
    """Consecutive row groups that come to about a shard."""
    try:
        with _opened(source.path) as table:
            groups = [table.metadata.row_group(i).total_byte_size for i in range(table.num_row_groups)]
    except Unreadable:
        return [Piece(source, number, source.size_bytes)]  # said when it is its turn
    pieces: list[Piece] = []
    begin = size = 0
    for i, group in enumerate(groups):
        if i > begin and size + group > wish.shard_bytes:
            pieces.append(Piece(source, number, size, begin, i))
            begin, size = i, 0
        size += group
    return [*pieces, Piece(source, number, size, begin, len(groups))]


def read_rows(piece: Piece, wish: Wish, scratch: Path) -> Generator[Sample | Reject, None, None]:  # noqa: ARG001
    with _opened(piece.source.path) as table:
        groups = range(table.num_row_groups)[piece.begin : piece.end]
        at = sum(table.metadata.row_group(i).num_rows for i in range(piece.begin))
        columns = _choose_columns(table.schema_arrow, wish, piece.source.path)
        batches = table.iter_batches(_count_rows(table, groups), groups, columns, use_threads=False)
        for batch in batches:
            for row in batch.to_pylist():
                yield make_sample(row, at, piece.number, wish)
                at += 1


def locate_row(piece: Piece, at: int) -> str:
    return f"{piece.source.path}, row {at} (the first is 0)"


@contextmanager
def _opened(path: str) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, page_checksum_verification=True) as table:
            yield table
    except (pa.ArrowException, OSError) as error:
        raise Unreadable(
            f"cannot be read as parquet: {str(error).partition(chr(10))[0]}",
            where=path,
            remedy="it may be cut short, damaged, or not what its name says: fetch it again",
        ) from error


def _count_rows(table: pq.ParquetFile, groups: range) -> int:
    """Rows a batch, so that one has about _BATCH_BYTES."""
    rows: int = sum(table.metadata.row_group(i).num_rows for i in groups)
    size_bytes: int = sum(table.metadata.row_group(i).total_byte_size for i in groups)
    return max(1, min(4096, rows * _BATCH_BYTES // max(1, size_bytes)))


def _choose_columns(schema: pa.Schema, wish: Wish, path: str) -> list[str]:
    named = list(dict.fromkeys(field for field in (wish.key, *(field for _, field in wish.taken)) if field))
    missing = [field for field in named if field not in schema.names]
    if missing:
        raise Unreadable(
            f"has no column {', '.join(missing)}", where=path, remedy=f"its columns are: {', '.join(schema.names)}"
        )
    if wish.drop_rest:
        return named
    for column in schema:
        if column.name not in named and _holds_bytes(column.type):
            raise DataError(
                f"column {column.name} holds bytes, which JSON cannot",
                where=path,
                remedy=f"give them a member, for example --member jpg={column.name}, or leave out what is not named: "
                "--drop-rest",
            )
    return list(schema.names)


def _holds_bytes(kind: pa.DataType) -> bool:
    binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    return binary or any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
