"""The ledger's two sums: what was fed, in a form that adds up over ranks and steps whatever the slicing.

Every span fed gives two 128-bit digests: with its position (proves a step) and without (proves an epoch's set).
batch.py makes them from the arrays that go into the model; audit.py makes them again from the manifest."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from orchestrator.core.keyed import key, text_key
from orchestrator.core.words import Span

MODULUS, LIMB_BITS = 1 << 128, 32
NUM_LIMBS = 4
HIGH, LOW = text_key("longhaul ledger, high half"), text_key("longhaul ledger, low half")
HALVES = np.array([[LOW], [HIGH]], np.uint64)
LIMB, LIMB_SHIFT = np.uint64(0xFFFF_FFFF), np.uint64(LIMB_BITS)
SPANS_AT_ONCE = 2**14  # their columns stay in a core's cache
ORDER, SET = 1, 2
TOKEN_BYTES = 4  # of a token when it is summed
sum_bytes = xxhash.xxh3_128_digest


@dataclass(frozen=True, slots=True)
class Sums:
    """Two sums modulo 2**128."""

    order: int = 0
    set: int = 0

    def __add__(self, other: "Sums") -> "Sums":
        return Sums((self.order + other.order) % MODULUS, (self.set + other.set) % MODULUS)

    @property
    def order_hex(self) -> str:
        return f"{self.order:032x}"

    @property
    def set_hex(self) -> str:
        return f"{self.set:032x}"

    def to_limbs(self) -> list[int]:
        """Eight 32-bit numbers, lowest first. As float64 or int64 they add exactly over 2**20 ranks."""
        return [total >> LIMB_BITS * n & 0xFFFF_FFFF for total in (self.order, self.set) for n in range(NUM_LIMBS)]

    @classmethod
    def from_limbs(cls, limbs: Sequence[float]) -> "Sums":
        """The sums whose limbs, added up limb by limb, are these."""
        if len(limbs) != 2 * NUM_LIMBS:
            raise ValueError(f"two sums have {2 * NUM_LIMBS} limbs, not {len(limbs)}")
        values = [int(limb) << LIMB_BITS * (n % NUM_LIMBS) for n, limb in enumerate(limbs)]
        return cls(sum(values[:NUM_LIMBS]) % MODULUS, sum(values[NUM_LIMBS:]) % MODULUS)


def checksum(tokens: NDArray[Any]) -> bytes:
    """xxh3-128 of token ids as little-endian 32-bit numbers."""
    return sum_bytes(as_summed(tokens).data)


def as_summed(tokens: NDArray[Any]) -> NDArray[np.uint32]:
    """Token ids in the form in which their bytes are summed."""
    return np.ascontiguousarray(tokens, "<u4")


def digest(positions: Sequence[int], starts: Sequence[int], spans: Sequence[Span], checksums: Sequence[bytes]) -> Sums:
    """The sums over spans fed: at which position of the run, from which token of the sequence on, what, which bytes."""
    if not spans:
        return Sums()
    place = [np.asarray(positions, np.int64), np.asarray(starts, np.int64)]
    limbs = digest_groups(
        np.zeros(len(spans), np.int64), 1, place, [*np.asarray(spans, np.int64).T], join_checksums(checksums)
    )
    return Sums.from_limbs(limbs[0].tolist())


def join_checksums(checksums: Sequence[bytes]) -> NDArray[np.uint64]:
    """Checksums as rows of two numbers, high and low."""
    return np.frombuffer(b"".join(checksums), ">u8").astype(np.uint64).reshape(-1, 2)


def fold_checksums(fields: Sequence[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """One checksum a sample, a row of two numbers each, from those of each of its fields in the config's order."""
    if len(fields) == 1:
        return fields[0]
    parts = [column for field in fields for column in field.T]
    return np.stack([key(HIGH, *parts), key(LOW, *parts)], axis=1)


def digest_groups(
    groups: NDArray[np.int64],
    num_groups: int,
    place: Sequence[NDArray[np.int64]],
    span: Sequence[NDArray[np.int64]],
    checksums: NDArray[np.uint64],
) -> NDArray[np.uint64]:
    """The sums of each group of spans: a row of limbs, not carried, as Sums.from_limbs takes them.

    Exact for 2**32 spans. `place` is position and start, `span` the four columns of Span."""
    limbs = np.zeros((2 * NUM_LIMBS, num_groups), np.uint64)
    for begin in range(0, groups.size, SPANS_AT_ONCE):
        here = slice(begin, begin + SPANS_AT_ONCE)
        identity = [*(column[here] for column in span), *checksums[here].T]
        for n, parts in enumerate(([ORDER, *(column[here] for column in place), *identity], [SET, *identity])):
            low, high = key(HALVES, *parts)
            values = (low & LIMB, low >> LIMB_SHIFT, high & LIMB, high >> LIMB_SHIFT)
            for limb, value in zip(limbs[n * NUM_LIMBS : (n + 1) * NUM_LIMBS], values, strict=True):
                np.add.at(limb, groups[here], value)
    return limbs.T
