"""Statistics of columns that rules for tables, and scaling, go by: of training samples of segment 0, or of all that is
there when a chain begins (prepare.statistics). Taken once for a chain.

Before any verdict; segments that come later are judged by the same figures. They are kept beside the chain, with what
the trainer is to fill in, clip or scale when it feeds the samples (data/decoding/table.py)."""

import json
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

import numpy as np

from orchestrator.core.errors import DataError
from orchestrator.core.mapping import RunAll
from orchestrator.core.words import ShardRef
from orchestrator.data.decoding.table import Figures
from orchestrator.data.shards.index import index_shard
from orchestrator.data.shards.split import TRAIN
from orchestrator.prepare.clean.cleaner import Cleaner
from orchestrator.prepare.clean.sample import Sample
from orchestrator.prepare.clean.statistics import Statistics
from orchestrator.prepare.cleaning import read_metas
from orchestrator.prepare.plan import Steps
from orchestrator.prepare.rules import Rules
from orchestrator.prepare.splits import find_splits
from orchestrator.storage.publish import read_json
from orchestrator.storage.stores import StoreSettings, open_stores
from orchestrator.storage.workplace import store_json


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectJob:
    shard: ShardRef
    source_name: str
    work: Path
    stores: StoreSettings
    rules: Rules


def with_statistics(steps: Steps, run_all: RunAll) -> Steps:
    """The steps with the figures that their rules need: those of the chain once it has a segment."""
    if not Cleaner.of(steps.rules.clean).needs_statistics and steps.rules.rows is None:
        return steps
    path = steps.work.statistics(steps.chain)
    if steps.manifest is None or not path.exists():
        first = steps.dataset.segments[0]
        ordinals = first.append if steps.rules.statistics_from == "all" else first.ordinals
        jobs = [_job(steps, ordinal) for ordinal in ordinals]
        found = reduce(Statistics.merge, run_all(collect_shard, jobs), Statistics())
        figures = find_figures(steps.rules, found)
        store_json(path, {"format": 1, "statistics": found.as_json(), **figures._asdict()})
    read = read_json(path)
    rows = steps.rules.rows and replace(steps.rules.rows, figures=Figures(read["repairs"], read["scales"]))
    statistics = json.dumps(read["statistics"], sort_keys=True)
    steps = replace(steps, rules=replace(steps.rules, statistics=statistics, rows=rows))
    if steps.manifest is not None and steps.manifest.segments[0].rules != steps.rules.id:
        raise DataError(
            "the chain's statistics are lost, and what was there when they were taken cannot be told any more",
            where=str(path),
            remedy=f"restore this file, or delete {path.parent} and run longhaul prepare again",
        )
    return steps


def find_figures(rules: Rules, found: Statistics) -> Figures:
    """What the trainer is to do to values. A column without one number is left to who looks at the rows."""
    columns = {name: found.columns[name] for name in name_scaled(rules) if found.columns[name].count}
    scales = {name: [column.mean(), column.deviation()] for name, column in columns.items()}
    return Figures(Cleaner.of(rules.clean).with_statistics(found).list_repairs(), scales)


def name_scaled(rules: Rules) -> list[str]:
    """Columns of numbers that are fed less their mean, over their deviation."""
    if rules.rows is None or rules.rows.table.scale == "none":
        return []
    return [column for column in rules.rows.table.columns if isinstance(column, str)]


def collect_shard(job: CollectJob) -> Statistics:
    """As a task: of the training samples of one shard."""
    stores = open_stores(job.stores)
    index = index_shard(job.shard, job.work, job.rules.on_bad, stores)
    opened = stores.open(job.shard.url, index.stamp)
    opened.need_all()
    splits = find_splits(job.shard, job.source_name, index, job.rules, stores)
    sound = np.array([why is None for why in index.bad()], bool)
    sound[[drop.place for drop in splits.drops]] = False
    places = np.flatnonzero(sound & (splits.of == TRAIN)).tolist()
    metas = read_metas(opened.data, index, places)
    return Cleaner.of(job.rules.clean).collect([Sample(meta=meta) for meta in metas], name_scaled(job.rules))


def _job(steps: Steps, ordinal: int) -> CollectJob:
    shard = steps.dataset.shards[ordinal]
    name = steps.dataset.source_names[shard.source]
    return CollectJob(shard=shard, source_name=name, work=steps.work.root, stores=steps.stores, rules=steps.rules)
