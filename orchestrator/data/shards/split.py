"""Which split a sample belongs to: a hash of (source, shard, key) or of its group, so it depends on no order, seed or
other sample."""

from collections.abc import Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

from orchestrator.config.data import SplitSection
from orchestrator.core.keyed import key, text_key, unit_interval

SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)


def split_of(source_name: str, shard_name: str, keys: list[str], split: SplitSection) -> NDArray[np.uint8]:
    """The split of each key of a shard, as a place in SPLITS."""
    hashes = np.fromiter((xxhash.xxh3_64_intdigest(name.encode()) for name in keys), np.uint64, len(keys))
    return _choose(
        key(np.full(len(keys), text_key(source_name), np.uint64), np.uint64(text_key(shard_name)), hashes), split
    )


def split_groups(groups: Sequence[str], split: SplitSection) -> NDArray[np.uint8]:
    """The split of each group: the same in every shard and source."""
    hashes = np.fromiter((text_key(group) for group in groups), np.uint64, len(groups))
    return _choose(key(np.full(len(groups), text_key("data.split.by"), np.uint64), hashes), split)


def _choose(keys: NDArray[np.uint64], split: SplitSection) -> NDArray[np.uint8]:
    share = unit_interval(keys)
    chosen = np.full(len(keys), TRAIN, np.uint8)
    if split.folds is not None:  # the same parts whichever of them is for validation
        part = np.floor((share - split.test) / (1 - split.test) * split.folds)
        chosen[part == split.fold] = VALIDATION
        chosen[share < split.test] = TEST
        return chosen
    chosen[share < split.validation + split.test] = TEST
    chosen[share < split.validation] = VALIDATION
    return chosen
