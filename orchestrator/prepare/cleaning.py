"""The samples of a shard as prepare.clean looks at them, judged and altered. Between the raw bytes and clean/."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from mmap import mmap
from typing import Any

import numpy as np
import xxhash

from orchestrator.config.preparing import CleanStep
from orchestrator.core.errors import DataError
from orchestrator.data.shards.index import ShardIndex
from orchestrator.prepare.clean.cleaner import Cleaner, CleaningFailed
from orchestrator.prepare.clean.sample import Sample, read_meta
from orchestrator.prepare.clean.statistics import Statistics
from orchestrator.prepare.drops import Drop
from orchestrator.prepare.rules import Model, Rules
from orchestrator.prepare.splits import META_MEMBER
from orchestrator.storage.local import map_local


def judge_texts(data: mmap | bytes, index: ShardIndex, rules: Rules, texts: Mapping[int, str]) -> list[Drop]:
    """What cleaning drops of texts that become tokens, given by place."""
    return _judge(index, rules, list(texts), _as_samples(data, index, rules, texts))


def judge_members(data: mmap | bytes, index: ShardIndex, rules: Rules, places: Sequence[int]) -> list[Drop]:
    """What cleaning drops of samples that are fed as they are."""
    metas = read_metas(data, index, places) if _cleaner(rules).needs_meta else [None] * len(places)
    view, found = memoryview(data), {name: index.find_members(suffixes) for name, suffixes in rules.fields}
    samples = []
    for place, meta in zip(places, metas, strict=True):
        extents = {name: (int(m.begin[place]), int(m.size[place])) for name, m in found.items()}
        members = {name: view[begin : begin + size] for name, (begin, size) in extents.items()}
        samples.append(Sample(meta=meta, members=members))
    return _judge(index, rules, places, samples)


def alter_texts(data: mmap | bytes, index: ShardIndex, rules: Rules, texts: dict[int, str]) -> dict[int, str]:
    """The texts of samples that stay, as they become tokens."""
    cleaner = _cleaner(rules)
    if not cleaner.alters:
        return texts
    return dict(zip(texts, cleaner.alter(_as_samples(data, index, rules, texts)), strict=True))


@lru_cache(maxsize=4)
def _ready(steps: str, models: tuple[Model, ...], statistics: str) -> Cleaner:
    for path, before in models:
        if xxhash.xxh3_128_hexdigest(map_local(path)) != before:
            raise DataError("is not what it was", where=path, remedy="let all machines read the same model")
    cleaner = Cleaner.of([CleanStep.model_validate(step) for step in json.loads(steps)])
    return cleaner.with_statistics(Statistics.from_json(json.loads(statistics))) if statistics else cleaner


def _cleaner(rules: Rules) -> Cleaner:
    """One a process: rules may load models."""
    return _ready(json.dumps([step.model_dump() for step in rules.clean]), rules.models, rules.statistics)


def _judge(index: ShardIndex, rules: Rules, places: Sequence[int], samples: Sequence[Sample]) -> list[Drop]:
    try:
        removals = _cleaner(rules).judge(samples)
    except CleaningFailed as error:
        key = index.keys()[places[error.row]]
        raise CleaningFailed(f"{error.message} (sample {key})", where=error.where, remedy=error.remedy) from error
    judged = zip(places, removals, strict=True)
    return [Drop(place, removal.rule, removal.reason) for place, removal in judged if removal is not None]


def _as_samples(data: mmap | bytes, index: ShardIndex, rules: Rules, texts: Mapping[int, str]) -> list[Sample]:
    metas = read_metas(data, index, list(texts)) if _cleaner(rules).needs_meta else [None] * len(texts)
    return [Sample(text=text, meta=meta) for text, meta in zip(texts.values(), metas, strict=True)]


def read_metas(data: mmap | bytes, index: ShardIndex, places: Sequence[int]) -> list[dict[str, Any] | None]:
    """The objects in the json members of some samples; None where there is none."""
    found, rows = index.find_members([META_MEMBER]), np.asarray(places, np.int64)
    begins, ends, there = found.begin[rows], (found.begin + found.size)[rows], found.suffix[rows] >= 0
    view = memoryview(data)
    return [
        read_meta(view[begin:end] if has else None)
        for begin, end, has in zip(begins.tolist(), ends.tolist(), there.tolist(), strict=True)
    ]
