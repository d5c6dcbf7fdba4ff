"""Keyed numbers: the only randomness of the data corridor. Same key, same numbers, on every machine, forever.

`mix` is splitmix64's finalizer, `key` folds parts into 64 bits, `permute` is a keyed bijection of range(n) that needs
no table. Changing one constant here changes every run's sample order: the formats' `format` would have to rise."""

import numpy as np
import xxhash
from numpy.typing import ArrayLike, NDArray

U64 = np.uint64
Keys = NDArray[np.uint64]
_GOLDEN = U64(0x9E3779B97F4A7C15)


def mix(x: Keys | np.uint64) -> Keys:
    """Scatter 64 bits (splitmix64's finalizer), elementwise."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> U64(30))) * U64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> U64(27))) * U64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> U64(31)))


def key(*parts: ArrayLike) -> Keys:
    """Fold integers into a 64-bit key. Parts may be arrays of one shape: one key per element."""
    k: Keys = np.asarray(U64(0))
    for part in parts:
        with np.errstate(over="ignore"):
            k = mix(k * _GOLDEN + np.asarray(part).astype(U64) + U64(1))
    return k


def text_key(text: str) -> int:
    """A 64-bit key of a name."""
    return int(xxhash.xxh3_64_intdigest(text.encode()))


def unit_interval(k: Keys) -> NDArray[np.float64]:
    """Keys as numbers in [0, 1)."""
    return np.asarray((k >> U64(11)).astype(np.float64) / 2.0**53)


def permute(i: ArrayLike, n: ArrayLike, k: ArrayLike, rounds: int = 6) -> NDArray[np.int64]:
    """The keyed permutation of range(n) at places `i`; `n` and `k` may differ by element.

    A balanced Feistel network on an even number of bits; values outside range(n) walk on until they fall inside."""
    out = np.array(i, dtype=U64, ndmin=1)
    sizes = np.broadcast_to(np.asarray(n, U64), out.shape)
    keys = np.broadcast_to(np.asarray(k, U64), out.shape)
    # Bits of the largest place, by exponent and not by log2, whose last bit differs between machines.
    bits = np.frexp((np.maximum(sizes, U64(2)) - U64(1)).astype(np.float64))[1]
    half = np.maximum(1, (bits + 1) // 2).astype(U64)
    mask = (U64(1) << half) - U64(1)
    out = _encipher(out, half, mask, keys, rounds)
    outside = np.flatnonzero(out >= sizes)
    while outside.size:
        out[outside] = _encipher(out[outside], half[outside], mask[outside], keys[outside], rounds)
        outside = outside[out[outside] >= sizes[outside]]
    return out.astype(np.int64).reshape(np.shape(i))


def _encipher(x: Keys, half: Keys, mask: Keys, keys: Keys, rounds: int) -> Keys:
    """One walk through the network. In place: new memory for each operation costs more than the arithmetic."""
    left, right = x >> half, x & mask
    turned, scratch = np.empty_like(left), np.empty_like(left)
    for t in range(rounds):
        np.add(right, keys, out=turned)
        np.add(turned, U64(t * int(_GOLDEN) % 2**64), out=turned)
        _scatter(turned, scratch)
        np.bitwise_and(turned, mask, out=turned)
        np.bitwise_xor(turned, left, out=left)
        left, right = right, left
    return (left << half) | right


def _scatter(x: Keys, scratch: Keys) -> None:
    """`mix`, in place."""
    for shift, factor in ((U64(30), U64(0xBF58476D1CE4E5B9)), (U64(27), U64(0x94D049BB133111EB))):
        np.right_shift(x, shift, out=scratch)
        np.bitwise_xor(x, scratch, out=x)
        np.multiply(x, factor, out=x)
    np.right_shift(x, U64(31), out=scratch)
    np.bitwise_xor(x, scratch, out=x)
