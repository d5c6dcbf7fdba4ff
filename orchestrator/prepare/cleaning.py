"""The samples of a shard as prepare.clean looks at them, judged and altered. Between the raw bytes and clean/."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from mmap import mmap

import numpy as np

from orchestrator.config.preparing import CleanStep
from orchestrator.data.shards.index import ShardIndex
from orchestrator.prepare.clean.cleaner import Cleaner, CleaningFailed
from orchestrator.prepare.clean.sample import Sample, read_meta
from orchestrator.prepare.drops import Drop
from orchestrator.prepare.rules import Rules

META_MEMBER = "json"


def judge_texts(data: mmap | bytes, index: ShardIndex, rules: Rules, texts: Mapping[int, str]) -> list[Drop]:
    """What cleaning drops of texts that become tokens, given by place."""
    return _judge(index, rules, list(texts), _as_samples(data, index, rules, texts))


def judge_members(data: mmap | bytes, index: ShardIndex, rules: Rules, places: Sequence[int]) -> list[Drop]:
    """What cleaning drops of samples that are fed as they are."""
    metas = _read_metas(data, index, rules, places)
    view, found = memoryview(data), {name: index.find_members(suffixes) for name, suffixes in rules.fields}
    samples = []
    for place, meta in zip(places, metas, strict=True):
        extents = {name: (int(m.begin[place]), int(m.size[place])) for name, m in found.items()}
        members = {name: view[begin : begin + size] for name, (begin, size) in extents.items()}
        samples.append(Sample(meta=meta, members=members))
    return _judge(index, rules, places, samples)


def alter_texts(data: mmap | bytes, index: ShardIndex, rules: Rules, texts: dict[int, str]) -> dict[int, str]:
    """The texts of samples that stay, as they become tokens."""
    cleaner = _cleaner(rules.clean)
    if not cleaner.alters:
        return texts
    return dict(zip(texts, cleaner.alter(_as_samples(data, index, rules, texts)), strict=True))


@lru_cache(maxsize=4)
def _cleaner_of(steps: str) -> Cleaner:
    return Cleaner.of([CleanStep.model_validate_json(step) for step in steps.split("\n")])


def _cleaner(steps: Sequence[CleanStep]) -> Cleaner:
    """One a process: rules may load models."""
    return _cleaner_of("\n".join(step.model_dump_json() for step in steps))


def _judge(index: ShardIndex, rules: Rules, places: Sequence[int], samples: Sequence[Sample]) -> list[Drop]:
    try:
        removals = _cleaner(rules.clean).judge(samples)
    except CleaningFailed as error:
        key = index.keys()[places[error.row]]
        raise CleaningFailed(f"{error.message} (sample {key})", where=error.where, remedy=error.remedy) from error
    judged = zip(places, removals, strict=True)
    return [Drop(place, removal.rule, removal.reason) for place, removal in judged if removal is not None]


def _as_samples(data: mmap | bytes, index: ShardIndex, rules: Rules, texts: Mapping[int, str]) -> list[Sample]:
    metas = _read_metas(data, index, rules, list(texts))
    return [Sample(text=text, meta=meta) for text, meta in zip(texts.values(), metas, strict=True)]


def _read_metas(
    data: mmap | bytes, index: ShardIndex, rules: Rules, places: Sequence[int]
) -> "Sequence[Mapping[str, object] | None]":
    if not _cleaner(rules.clean).needs_meta:
        return [None] * len(places)
    found = index.find_members([META_MEMBER])
    begins, ends = found.begin[np.asarray(places, int)], (found.begin + found.size)[np.asarray(places, int)]
    there = found.suffix[np.asarray(places, int)] >= 0
    view = memoryview(data)
    return [
        read_meta(view[begin:end] if has else None)
        for begin, end, has in zip(begins.tolist(), ends.tolist(), there.tolist(), strict=True)
    ]
