"""Random numbers of a sample, from (seed, epoch, sample, name) and nothing else. Comes after order.py; transforms use
them, and the trainer replays them on the device.

The format is docs/data.md's "Random draws". Changing one bit of it changes every augmented run."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from orchestrator.core.keyed import Keys, key, text_key, unit_interval

DRAW_KEY = text_key("longhaul draws")
_MASK = 2**64 - 1


def sample_keys(seed: int, epoch: ArrayLike, ordinal: ArrayLike, place: ArrayLike) -> Keys:
    """The key that each sample draws under in an epoch; the arrays broadcast."""
    return key(DRAW_KEY, seed, epoch, ordinal, place)


class Draws:
    """Numbers of many samples at once. One key and one name give one number, wherever and however often it is drawn."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys

    def uniform(self, name: str, low: ArrayLike = 0.0, high: ArrayLike = 1.0) -> NDArray[np.float64]:
        """In [low, high)."""
        low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        return np.asarray(low + (high - low) * self._share(name))

    def integers(self, name: str, low: ArrayLike, high: ArrayLike) -> NDArray[np.int64]:
        """Whole numbers from low up to, and without, high."""
        low, high = np.asarray(low, np.int64), np.asarray(high, np.int64)
        if np.any(high <= low):
            raise ValueError(f"draw '{name}': nothing lies from {low} up to {high}")
        return np.asarray(low + (self._share(name) * (high - low)).astype(np.int64))

    def chance(self, name: str, p: ArrayLike) -> NDArray[np.bool_]:
        """True for a share of p."""
        return np.asarray(self._share(name) < np.asarray(p, np.float64))

    def choice(self, name: str, options: Sequence[Any]) -> NDArray[Any]:
        """One of the options, all alike likely."""
        return np.asarray(options)[self.integers(name, 0, len(options))]

    def _share(self, name: str) -> NDArray[np.float64]:
        return unit_interval(key(self.keys, text_key(name)))


class Draw:
    """The same numbers for one sample, as Python's: thirty times cheaper than arrays of one."""

    __slots__ = ("_folded",)

    def __init__(self, sample_key: int) -> None:
        self._folded = _mix((int(sample_key) + 1) & _MASK)

    def uniform(self, name: str, low: float = 0.0, high: float = 1.0) -> float:
        """In [low, high)."""
        return low + (high - low) * self._share(name)

    def integers(self, name: str, low: int, high: int) -> int:
        """A whole number from low up to, and without, high."""
        if high <= low:
            raise ValueError(f"draw '{name}': nothing lies from {low} up to {high}")
        return low + int(self._share(name) * (high - low))

    def chance(self, name: str, p: float) -> bool:
        """True for a share of p."""
        return self._share(name) < p

    def choice(self, name: str, options: Sequence[Any]) -> Any:
        """One of the options, all alike likely."""
        return options[self.integers(name, 0, len(options))]

    def _share(self, name: str) -> float:
        # keyed.key's second round, and keyed.unit_interval.
        folded = _mix((self._folded * 0x9E3779B97F4A7C15 + text_key(name) + 1) & _MASK)
        return (folded >> 11) / 2.0**53


def _mix(x: int) -> int:
    """keyed.mix of one number."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    return x ^ (x >> 31)
