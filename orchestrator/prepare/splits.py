"""The split of each sample of a shard: by its own name, or by the group that its json member names (data.split.by).

Before everything that looks at training samples only. A sample without its group belongs to no split: it is broken."""

import json
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.words import ShardRef
from orchestrator.data.shards.index import ShardIndex
from orchestrator.data.shards.split import TRAIN, split_groups, split_of
from orchestrator.prepare.clean.sample import read_meta
from orchestrator.prepare.drops import Drop, refuse_drops
from orchestrator.prepare.rules import Rules
from orchestrator.storage.stores import Stores

KEY = "data.split.by"
META_MEMBER = "json"


class Splits(NamedTuple):
    """By place; `drops` are those without a group."""

    of: NDArray[np.uint8]
    drops: list[Drop]


def find_splits(shard: ShardRef, source_name: str, index: ShardIndex, rules: Rules, stores: Stores) -> Splits:
    if rules.split.by is None:
        return Splits(split_of(source_name, shard.name, index.keys(), rules.split), [])
    groups, drops = _read_groups(shard, index, rules.split.by, stores)
    refuse_drops(shard, index, drops, rules.on_bad, KEY)
    splits = np.full(len(index), TRAIN, np.uint8)
    splits[list(groups)] = split_groups(list(groups.values()), rules.split)
    return Splits(splits, drops)


def _read_groups(shard: ShardRef, index: ShardIndex, field: str, stores: Stores) -> tuple[dict[int, str], list[Drop]]:
    """What names the group of each sample that the index does not call bad, by place."""
    opened = stores.open(shard.url, index.stamp)
    opened.need_all()
    found, view = index.find_members([META_MEMBER]), memoryview(opened.data)
    begins, ends = found.begin.tolist(), (found.begin + found.size).tolist()
    groups, drops = dict[int, str](), list[Drop]()
    for place, why in enumerate(index.bad()):
        if why is not None:
            continue
        meta = read_meta(view[begins[place] : ends[place]] if found.suffix[place] >= 0 else None) or {}
        if meta.get(field) is None:
            drops.append(Drop(place, "no group", f"no {field} in .{META_MEMBER}"))
        else:
            groups[place] = json.dumps(meta[field], sort_keys=True)
    return groups, drops
