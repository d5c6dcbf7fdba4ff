"""What became of every sample, counted: by source and split how many came in, why some went, what is kept.

Comes after the last commit, from the tables of the chain alone, so it can be made again at any time."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.data.shards.manifest import Manifest
from orchestrator.data.shards.split import SPLITS
from orchestrator.prepare.drops import WHOLE_SHARD


@dataclass(kw_only=True)
class Funnel:
    """Of one source and split. `dropped` counts samples by rule."""

    source: str
    split: str
    samples: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    tokens: int = 0

    def as_json(self) -> dict[str, Any]:
        dropped = dict(sorted(self.dropped.items()))
        return {"source": self.source, "split": self.split, "in": self.samples, "dropped": dropped} | {
            "kept": self.kept,
            "tokens": self.tokens,
        }


def count_funnels(manifest: Manifest) -> list[Funnel]:
    """For each source and split that has samples, in their order."""
    funnels = [Funnel(source=name, split=split) for name in manifest.source_names for split in SPLITS]
    for number in range(len(manifest.segments)):
        _add_segment(manifest, number, funnels)
    return [funnel for funnel in funnels if funnel.samples]


def _add_segment(manifest: Manifest, number: int, funnels: list[Funnel]) -> None:
    samples, sizes = manifest.samples(number), manifest.shard_sizes(number)
    of_funnel = np.repeat(manifest.shard_sources(number), sizes) * len(SPLITS) + samples.split
    counts = (
        np.bincount(of_funnel, minlength=len(funnels)),
        np.bincount(of_funnel[samples.kept == 1], minlength=len(funnels)),
        _sum_by(of_funnel, samples.tokens, len(funnels)),
    )
    for funnel, in_, kept, tokens in zip(funnels, *(array.tolist() for array in counts), strict=True):
        funnel.samples += in_
        funnel.kept += kept
        funnel.tokens += tokens
    drops = manifest.drops(number)
    rules = drops["rule"].combine_chunks().dictionary_encode()
    ordinals, places = drops["ordinal"].to_numpy(), drops["place"].to_numpy()
    first = np.cumsum(sizes) - sizes
    of_sample = places != WHOLE_SHARD
    rows = (first[ordinals - manifest.segments[number].ordinals.start] + places)[of_sample]
    pairs, times = np.unique(
        np.stack([of_funnel[rows], rules.indices.to_numpy()[of_sample]]), axis=1, return_counts=True
    )
    names = rules.dictionary.to_pylist()
    for funnel, rule, count in zip(*pairs.tolist(), times.tolist(), strict=True):
        funnels[funnel].dropped[names[rule]] += count


def _sum_by(groups: NDArray[Any], values: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Exact sums of integers by group."""
    sums = np.zeros(count, np.int64)
    np.add.at(sums, groups, values)
    return sums
