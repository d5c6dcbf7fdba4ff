"""Inputs that are tars, mostly compressed. One that the index would take is kept byte for byte; one whose keys are
scattered, or that is bigger than a shard may be, is packed again in the order in which its keys first appear."""

import mmap
import secrets
from collections.abc import Generator, Iterator
from itertools import pairwise
from pathlib import Path

from orchestrator.data.shards.index import Samples, group_members
from orchestrator.data.shards.tarscan import BadShard, scan_tar
from orchestrator.importing.destination import writing_there
from orchestrator.importing.sample import Input, Piece, Reject, Sample, Unreadable, WholeTar
from orchestrator.importing.unpack import read_blocks
from orchestrator.importing.wish import Wish


def cut_archive(source: Input, number: int, wish: Wish) -> list[Piece]:
    """An archive is one job: its shards hold nothing else. So its size counts as a whole shard's."""
    return [Piece(source, number, wish.shard_bytes)]


def read_archive(piece: Piece, wish: Wish, scratch: Path) -> Generator[Sample | Reject | WholeTar, None, None]:
    """`scratch` is a folder on the destination's disk, where the archive is unpacked: its index comes last."""
    path = scratch / f".unpacked.{secrets.token_hex(8)}.part"
    try:
        _unpack(piece.source.path, path)
        data = _map(path)
        samples, passed_over = _scan(data, piece.source.path)
        yield from (Reject(0, "member without a suffix", harmless=True) for _ in range(passed_over))
        if _is_good(samples, len(data), wish):
            yield WholeTar(path, len(samples.key))
        else:
            yield from _pack_again(samples, memoryview(data))
    finally:
        path.unlink(missing_ok=True)


def locate_member(piece: Piece, at: int) -> str:
    return f"{piece.source.path}, byte {at} of the tar"


def _unpack(source: str, path: Path) -> None:
    with writing_there(path), path.open("wb") as file:
        file.writelines(read_blocks(source))


def _map(path: Path) -> mmap.mmap | bytes:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""


def _scan(data: mmap.mmap | bytes, source: str) -> tuple[Samples, int]:
    """The samples as the index sees them, and how many members it passes over."""
    try:
        members = list(scan_tar(data, source))
    except BadShard as error:
        raise Unreadable(f"the tar inside {error.message}", where=source, remedy=error.advice) from error
    samples = group_members(members)
    return samples, len(members) - len(samples.suffix)


def _is_good(samples: Samples, size_bytes: int, wish: Wish) -> bool:
    few = wish.shard_samples is None or len(samples.key) <= wish.shard_samples
    return bool(samples.key) and not samples.bad and few and size_bytes <= wish.shard_bytes


def _pack_again(samples: Samples, data: memoryview) -> Iterator[Sample | Reject]:
    stretches = list(pairwise([*samples.first, len(samples.suffix)]))
    places: dict[str, list[int]] = {}
    for place, key in enumerate(samples.key):
        places.setdefault(key, []).append(place)
    for key, found in places.items():
        members = [member for place in found for member in range(*stretches[place])]
        fault = _find_fault(samples, found, members)
        if fault:
            yield Reject(samples.offset[found[0]], fault, "pack the archive again, each key once", key)
        else:
            begins = [samples.member_offset[member] for member in members]
            sizes = [samples.member_size[member] for member in members]
            pieces = [data[begin : begin + size] for begin, size in zip(begins, sizes, strict=True)]
            suffixes = [samples.suffix[member] for member in members]
            yield Sample(samples.offset[found[0]], key, list(zip(suffixes, pieces, strict=True)))


def _find_fault(samples: Samples, places: list[int], members: list[int]) -> str:
    if any("UTF-8" in samples.bad.get(place, "") for place in places):
        return "name is not UTF-8"
    if len({samples.suffix[member] for member in members}) < len(members):
        return "key has two members of one suffix"
    return ""
