"""An auditor that shares no code with Longhaul: tarfile, whole numbers and xxhash say what a step's ledger row must be.

All it is told is which samples a step feeds, as (position, ordinal, place), and where shard number `ordinal` lies."""

import tarfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import xxhash

MODULUS = 1 << 64
ORDER, SET = 1, 2
HIGH = xxhash.xxh3_64_intdigest(b"longhaul ledger, high half")
LOW = xxhash.xxh3_64_intdigest(b"longhaul ledger, low half")


def scatter(x: int) -> int:
    """splitmix64's finalizer."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % MODULUS
    x = (x ^ x >> 27) * 0x94D049BB133111EB % MODULUS
    return x ^ x >> 31


def fold(*parts: int) -> int:
    k = 0
    for part in parts:
        k = scatter((k * 0x9E3779B97F4A7C15 + part + 1) % MODULUS)
    return k


def fold_both(*parts: int) -> int:
    return fold(HIGH, *parts) << 64 | fold(LOW, *parts)


@cache
def read_members(shard: Path) -> list[dict[str, bytes]]:
    """The samples of a shard in the order of its file: suffix -> bytes."""
    samples: dict[str, dict[str, bytes]] = {}
    with tarfile.open(shard) as tar:
        for info in tar:
            key, _, suffix = info.name.partition(".")
            file = tar.extractfile(info)
            assert file is not None
            samples.setdefault(key, {})[suffix] = file.read()
    return list(samples.values())


def sum_sample(members: Mapping[str, bytes], fields: Iterable[Sequence[str]]) -> list[int]:
    """High and low half of what is kept of a sample with these suffixes for its fields."""
    chosen = [next(members[suffix] for suffix in suffixes if suffix in members) for suffixes in fields]
    halves = [half for data in chosen for half in divmod(xxhash.xxh3_128_intdigest(data), MODULUS)]
    return halves if len(chosen) == 1 else [fold(HIGH, *halves), fold(LOW, *halves)]


def audit_step(
    fed: Iterable[tuple[int, int, int]], shards: Sequence[Path], fields: Sequence[Sequence[str]]
) -> dict[str, str | int]:
    """The ledger's columns for a step that feeds these samples whole."""
    order = together = count = 0
    for position, ordinal, place in fed:
        checksum = sum_sample(read_members(shards[ordinal])[place], fields)
        order += fold_both(ORDER, position, 0, ordinal, place, 0, 0, *checksum)
        together += fold_both(SET, ordinal, place, 0, 0, *checksum)
        count += 1
    digests = (f"{total % MODULUS**2:032x}" for total in (order, together))
    return dict(zip(("order_digest", "set_digest", "count"), (*digests, count), strict=True))
