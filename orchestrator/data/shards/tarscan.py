"""One pass over the headers of a tar: where each regular member's bytes lie. Comes after listing, before index.py.

Reads ustar, PAX and GNU long names and base-256 sizes. What is broken raises a BadShard that names the byte; nothing is
guessed: where readers of tar disagree about a header, it is refused. This loop limits how fast shards are indexed
(benchmarks/index.py), so a plain header costs two calls and no objects but its member."""

import re
from collections.abc import Iterator
from mmap import mmap
from struct import Struct
from typing import ClassVar, NamedTuple
from zlib import adler32

from orchestrator.core.errors import DataError

BLOCK = 512
LARGEST_EXTENSION = 2**20  # bytes of a long name or of PAX records; no writer comes near it
_ZERO = bytes(BLOCK)
_FIELDS = Struct("100s 24x 12s 12x 8s c 100x 8s 80x 155s 12x")  # name, size, checksum, kind, magic, prefix
_USTAR, _GNU = b"ustar\0", b"ustar  \0"
_REGULAR = b"0\x007"
_WITHOUT_DATA = b"123456"  # links, devices, folders: their size field announces no bytes
_EXTENSIONS = b"xXgLK"  # say something about the next member (g: all following ones)
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
}
_PAX_RECORD = re.compile(rb"(\d{1,9}) ([^=]+)=")
_COPY_AGAIN = "copy the shard again from where it came from, or pack it again"


class BadShard(DataError):
    """A shard whose bytes are not one whole tar. `advice` is the remedy for all of its kind."""

    advice: ClassVar[str] = _COPY_AGAIN


class NotATar(BadShard):
    advice = "pack it as a plain .tar; longhaul import unpacks compressed ones"


class Truncated(BadShard): ...


class NoEndMark(BadShard): ...


class DataAfterEnd(BadShard):
    advice = "pack it again as one tar; of tars joined end to end most readers see the first only"


class HeaderDamaged(BadShard): ...


class Unsupported(BadShard):
    advice = "pack it again with plain members"


class Member(NamedTuple):
    """A regular file in the tar: `begin` is its first header, `offset` and `size` its bytes, `end` the next header."""

    name: str
    begin: int
    offset: int
    size: int
    end: int


def scan_tar(data: mmap | bytes, shard: str) -> Iterator[Member]:
    """The regular members in order. `shard` is for messages."""
    at = begin = 0
    shared: dict[bytes, bytes] = {}  # what global PAX headers say of all following members
    own: dict[bytes, bytes] = {}  # what PAX headers and GNU long names say of the next member
    while (block := data[at : at + BLOCK]) != _ZERO:
        if len(block) < BLOCK:
            raise _cut_at(block, at, shard)
        name, size, kind = _parse(block, at, shard)
        if kind in _EXTENSIONS:
            at = _extend(shared if kind == b"g" else own, kind, data, at, size, shard)
            if kind == b"g" and not own:
                begin = at
            continue
        if shared or own:
            name, size = _apply(shared, own, name, size, begin, shard)
            own = {}
        offset = at + BLOCK
        at = offset if kind in _WITHOUT_DATA else offset + (size + 511 & -512)
        if at > len(data):
            raise _cut_in_member(begin, at, len(data), shard)
        if kind in _REGULAR:
            yield Member(name.decode("utf-8", "surrogateescape"), begin, offset, size, at)
        elif kind == b"S":
            raise Unsupported(f"member at byte {begin} is stored sparsely", where=shard)
        begin = at
    _check_end(data, at, pending=begin != at, shard=shard)


def _parse(block: bytes, at: int, shard: str) -> tuple[bytes, int, bytes]:
    """Name, size and kind, once the checksum is right."""
    name, size_field, sum_field, kind, magic, prefix = _FIELDS.unpack(block)
    if not _sums_to(block, sum_field):
        raise _wrong_checksum(block, at, shard)
    try:
        size = _number(size_field)
    except ValueError:
        size = -1
    if size < 0:
        raise HeaderDamaged(f"header at byte {at} states no possible size", where=shard)
    name = name.partition(b"\0")[0]
    if kind == b"\0" and name.endswith(b"/"):
        kind = b"5"  # how the first tars marked folders
    if prefix[0] and magic != _GNU:  # GNU tar keeps times there
        if not magic.startswith(_USTAR):
            raise HeaderDamaged(f"header at byte {at} has a name prefix but is not ustar", where=shard)
        name = prefix.partition(b"\0")[0] + b"/" + name
    return name, size, kind


def _number(field: bytes) -> int:
    """Octal text, or base 256 when the top bit is set."""
    if field[0] < 0x80:
        text = field.partition(b"\0")[0].strip() or b"0"
        if not text.isdigit():  # int() would read signs and underscores
            raise ValueError(text)
        return int(text, 8)
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    if field[0] == 0xFF:
        return int.from_bytes(field, "big", signed=True)
    raise ValueError(field)


def _sums_to(block: bytes, field: bytes) -> bool:
    """Whether the checksum field is right: the sum of all other bytes, with spaces in its own place."""
    try:
        stated = _number(field)
    except ValueError:
        return False
    # adler32's low half is 1 + the sum of the bytes, exact for up to 256 of them; sum() would take 10 times as long
    total = (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF) - 2 - sum(field) + 8 * ord(" ")
    if stated == total:
        return True
    return stated == total - 256 * sum(byte > 127 for byte in block[:148] + block[156:])  # old tars: signed bytes


def _extend(records: dict[bytes, bytes], kind: bytes, data: mmap | bytes, at: int, size: int, shard: str) -> int:
    """Add what a PAX header or a GNU long name says; returns where the next header begins.

    A second, different word on the same thing is refused, and so are bytes that only some readers would see."""
    if size > LARGEST_EXTENSION:
        most = f"at most {LARGEST_EXTENSION} are read"
        raise Unsupported(f"long name or PAX header at byte {at} has {size} bytes, {most}", where=shard)
    offset = at + BLOCK
    end = offset + (size + 511 & -512)
    if end > len(data):
        raise _cut_in_member(at, end, len(data), shard)
    body = data[offset : offset + size]
    name, _, rest = body.partition(b"\0")
    if data[offset + size : end].strip(b"\0") or (kind == b"L" and rest.strip(b"\0")):
        raise HeaderDamaged(f"long name or PAX header at byte {at} goes on after its end", where=shard)
    if kind == b"K":
        return end  # the target of a link
    found = {b"path": name} if kind == b"L" else _read_pax(body, offset, shard)
    if kind != b"g" and any(records.get(key, value) != value for key, value in found.items()):
        raise HeaderDamaged(f"header at byte {at} contradicts the one before it", where=shard)
    records.update(found)
    return end


def _apply(
    shared: dict[bytes, bytes], own: dict[bytes, bytes], name: bytes, size: int, begin: int, shard: str
) -> tuple[bytes, int]:
    """Name and size after the headers before a member."""
    records = {**shared, **own}
    if any(key.startswith(b"GNU.sparse") for key in records):
        raise Unsupported(f"member at byte {begin} is stored sparsely", where=shard)
    if b"size" in records:
        text = records[b"size"]
        if not text.isdigit() or len(text) > 19:
            raise HeaderDamaged(f"PAX size {text[:40]!r} of the member at byte {begin} is no size", where=shard)
        if b"size" not in own and int(text) != size:
            raise Unsupported(f"a global PAX header gives the member at byte {begin} another size", where=shard)
        size = int(text)
    return records.get(b"path", name), size


def _read_pax(body: bytes, at: int, shard: str) -> dict[bytes, bytes]:
    """The records that matter here. A record is "length key=value\\n"; length counts the whole record."""
    records = {}
    position = 0
    while body[position:].strip(b"\0"):
        match = _PAX_RECORD.match(body, position)
        stop = position + int(match.group(1)) if match else 0
        if match is None or stop > len(body) or stop <= match.end() or body[stop - 1 : stop] != b"\n":
            raise HeaderDamaged(f"PAX record at byte {at + position} is malformed", where=shard)
        key, value = match.group(2), body[match.end() : stop - 1]
        if key == b"path":
            records[key] = value.rstrip(b"/")
        elif key == b"size" or key.startswith(b"GNU.sparse"):
            records[key] = value
        position = stop
    return records


def _check_end(data: mmap | bytes, at: int, *, pending: bool, shard: str) -> None:
    """After the first zero block there must be a second one, and nothing but zeros after it."""
    if pending:
        raise HeaderDamaged(f"a long-name or PAX header before byte {at} belongs to no member", where=shard)
    if len(data) < at + 2 * BLOCK:
        raise NoEndMark(f"has no whole end mark at byte {at}; it may have been cut", where=shard)
    position = at + BLOCK
    while position < len(data):
        part = data[position : position + 2**20]
        if part.strip(b"\0"):
            first = position + len(part) - len(part.lstrip(b"\0"))
            raise DataAfterEnd(f"has data at byte {first}, after the end mark at byte {at}", where=shard)
        position += len(part)


def _cut_in_member(begin: int, end: int, total: int, shard: str) -> BadShard:
    return Truncated(f"member at byte {begin} needs {end} bytes, the file has {total}", where=shard)


def _cut_at(block: bytes, at: int, shard: str) -> BadShard:
    """What is wrong when the file ends where a header should stand."""
    if at == 0:
        return _not_a_tar(block, f"it has {len(block)} bytes", shard)
    if block.strip(b"\0"):
        return Truncated(f"ends inside the header at byte {at}", where=shard)
    return NoEndMark(f"has no end mark at byte {at}; it may have been cut", where=shard)


def _wrong_checksum(block: bytes, at: int, shard: str) -> BadShard:
    if at == 0:
        return _not_a_tar(block, "its first block is no header", shard)
    return HeaderDamaged(f"header at byte {at} has a wrong checksum", where=shard)


def _not_a_tar(block: bytes, why: str, shard: str) -> BadShard:
    kind = next((name for magic, name in _COMPRESSED.items() if block.startswith(magic)), None)
    return NotATar(f"is no tar: {f'it looks like {kind}' if kind else why}", where=shard)
