"""One pass over the headers of a tar: where each regular member's bytes lie. Comes after listing, before index.py.

Reads ustar, PAX and GNU long names and base-256 sizes. What is broken raises a BadShard that names the byte; nothing is
guessed."""

import re
from collections.abc import Iterator
from mmap import mmap
from typing import NamedTuple

from orchestrator.core.errors import DataError

BLOCK = 512
_ZERO = bytes(BLOCK)
_REGULAR = (b"0", b"\0", b"7")
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders: their size field announces no bytes
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
_PAX_RECORD = re.compile(rb"(\d+) ([^=]+)=")


class BadShard(DataError):
    """A shard whose bytes are not one whole tar."""


class NotATar(BadShard): ...


class Truncated(BadShard): ...


class NoEndMark(BadShard): ...


class DataAfterEnd(BadShard): ...


class HeaderDamaged(BadShard): ...


class Unsupported(BadShard): ...


class Member(NamedTuple):
    """A regular file in the tar: `begin` is its first header, `offset` and `size` its bytes, `end` the next header."""

    name: str
    begin: int
    offset: int
    size: int
    end: int


class _Header(NamedTuple):
    name: bytes
    size: int
    kind: bytes


def scan_tar(data: mmap | bytes, shard: str) -> Iterator[Member]:
    """The regular members in order. `shard` is for messages."""
    at, total = 0, len(data)
    shared: dict[bytes, bytes] = {}  # PAX records for all following members
    own: dict[bytes, bytes] = {}  # PAX records and GNU long name for the next member
    begin = 0
    while True:
        block = _read_block(data, at, shard)
        if block == _ZERO:
            return _check_end(data, at, pending=begin != at, shard=shard)
        header = _parse(block, at, shard)
        records = {**shared, **own}
        size = (
            _decimal(records[b"size"], at, shard) if b"size" in records and header.kind not in b"xgLKX" else header.size
        )
        offset = at + BLOCK
        stored = 0 if header.kind in _WITHOUT_DATA else size
        following = offset + -(-stored // BLOCK) * BLOCK
        if following > total:
            raise Truncated(f"member at byte {at} needs {following} bytes, the file has {total}", where=shard)
        at = following
        if header.kind in (b"x", b"X", b"g"):
            found = _pax_records(bytes(data[offset : offset + size]), offset, shard)
            (shared if header.kind == b"g" else own).update(found)
        elif header.kind == b"L":
            own[b"path"] = bytes(data[offset : offset + size]).split(b"\0", 1)[0]
        elif header.kind != b"K":
            if header.kind == b"S" or any(name.startswith(b"GNU.sparse") for name in records):
                raise Unsupported(f"member at byte {begin} is stored sparsely", where=shard)
            name = records[b"path"].rstrip(b"/") if b"path" in records else header.name
            if header.kind in _REGULAR and not (header.kind == b"\0" and name.endswith(b"/")):
                yield Member(name.decode("utf-8", "surrogateescape"), begin, offset, size, at)
            own = {}
        if header.kind not in (b"x", b"X", b"L", b"K"):
            begin = at


def _read_block(data: mmap | bytes, at: int, shard: str) -> bytes:
    block = bytes(data[at : at + BLOCK])
    if len(block) == BLOCK:
        return block
    if at == 0:
        raise NotATar(f"is no tar: it has {len(block)} bytes", where=shard)
    if block.strip(b"\0"):
        raise Truncated(f"ends inside the header at byte {at}", where=shard)
    raise NoEndMark(f"has no end mark at byte {at}; it may have been cut", where=shard)


def _check_end(data: mmap | bytes, at: int, *, pending: bool, shard: str) -> None:
    """After the first zero block there must be a second one, and nothing but zeros after it."""
    if pending:
        raise HeaderDamaged(f"a long-name or PAX header before byte {at} belongs to no member", where=shard)
    if len(data) < at + 2 * BLOCK:
        raise NoEndMark(f"has no whole end mark at byte {at}; it may have been cut", where=shard)
    position = at + BLOCK
    while position < len(data):
        part = bytes(data[position : position + 2**20])
        if part.strip(b"\0"):
            first = position + len(part) - len(part.lstrip(b"\0"))
            raise DataAfterEnd(f"has data at byte {first}, after the end mark at byte {at}", where=shard)
        position += len(part)


def _parse(block: bytes, at: int, shard: str) -> _Header:
    try:
        stated = _number(block[148:156])
        size = _number(block[124:136])
    except ValueError:
        stated = size = -1
    unsigned = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if stated != unsigned and stated != unsigned - 256 * sum(
        byte > 127 for byte in block[:148] + block[156:]
    ):  # signed sums of old tars
        kind = next((name for magic, name in _COMPRESSED.items() if block.startswith(magic)), None)
        if at == 0:
            raise NotATar(
                f"is no tar: it looks like {kind}" if kind else "is no tar: its first block is no header", where=shard
            )
        raise HeaderDamaged(f"header at byte {at} has a wrong checksum", where=shard)
    if size < 0:
        raise HeaderDamaged(f"header at byte {at} states no possible size", where=shard)
    name = block[:100].split(b"\0", 1)[0]
    prefix = block[345:500].split(b"\0", 1)[0]
    if prefix and block[257:263] == b"ustar\0":  # GNU's own magic uses these bytes for other things
        name = prefix + b"/" + name
    return _Header(name, size, block[156:157])


def _number(field: bytes) -> int:
    """Octal text, or base 256 when the top bit is set."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    if field[0] == 0xFF:
        return int.from_bytes(field, "big", signed=True)
    return int(field.split(b"\0", 1)[0].strip() or b"0", 8)


def _decimal(text: bytes, at: int, shard: str) -> int:
    if not text.isdigit():
        raise HeaderDamaged(f"PAX size {text!r} before byte {at} is no number", where=shard)
    return int(text)


def _pax_records(body: bytes, at: int, shard: str) -> dict[bytes, bytes]:
    """Records "length key=value\\n"; length counts the whole record."""
    records = {}
    position = 0
    while position < len(body) and body[position] != 0:
        match = _PAX_RECORD.match(body, position)
        stop = position + int(match.group(1)) if match else 0
        if match is None or stop > len(body) or stop <= match.end() or body[stop - 1 : stop] != b"\n":
            raise HeaderDamaged(f"PAX record at byte {at + position} is malformed", where=shard)
        records[match.group(2)] = body[match.end() : stop - 1]
        position = stop
    return records
