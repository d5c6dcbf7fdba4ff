"""The ledger's two sums: what was fed, in a form that adds up over ranks and steps whatever the slicing.

Every span fed gives two 128-bit digests: with its position (proves a step) and without (proves an epoch's set).
batch.py makes them from the arrays that go into the model; audit.py makes them again from the manifest."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from orchestrator.core.keyed import Keys, key, text_key
from orchestrator.core.words import Span

MODULUS, LIMB_BITS = 1 << 128, 32
NUM_LIMBS = 4
HIGH, LOW = text_key("longhaul ledger, high half"), text_key("longhaul ledger, low half")
ORDER, SET = 1, 2


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
    return xxhash.xxh3_128_digest(np.ascontiguousarray(tokens, "<u4").data)


def digest(positions: Sequence[int], starts: Sequence[int], spans: Sequence[Span], checksums: Sequence[bytes]) -> Sums:
    """The sums over spans fed: at which position of the run, from which token of the sequence on, what, which bytes."""
    if not spans:
        return Sums()
    halves = np.frombuffer(b"".join(checksums), ">u8").reshape(-1, 2).T
    identity = [*np.asarray(spans, np.int64).T, *halves]
    place = [np.asarray(positions, np.int64), np.asarray(starts, np.int64)]
    return Sums(_add_up(ORDER, *place, *identity), _add_up(SET, *identity))


def _add_up(purpose: int, *parts: NDArray[Any]) -> int:
    """The sum of 128-bit keys, one for each element of the parts."""
    high, low = _total(key(HIGH, purpose, *parts)), _total(key(LOW, purpose, *parts))
    return ((high << 64) + low) % MODULUS


def _total(keys: Keys) -> int:
    """The exact sum, by halves: 2**32 keys do not overflow."""
    return (int((keys >> np.uint64(32)).sum()) << 32) + int((keys & np.uint64(0xFFFF_FFFF)).sum())
