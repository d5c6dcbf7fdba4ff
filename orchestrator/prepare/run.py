"""Prepares a dataset: tokenizer, then shard by shard, committed segment by segment in order. Ends in a Manifest.

Who maps functions over jobs is handed in: in this process, or over Ray tasks (control/fleet.py). Results may come in
any order and any job may run twice; what is published is the same."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from orchestrator.config.run import RunConfig
from orchestrator.core.errors import DataError
from orchestrator.core.mapping import Progress, RunAll, run_serially, tell_nobody
from orchestrator.core.words import ShardRef
from orchestrator.data.shards.chain import TokenizerInfo, read_head, read_heads
from orchestrator.data.shards.contents import ContentJob, check_content
from orchestrator.data.shards.index import index_shard
from orchestrator.data.shards.manifest import Manifest
from orchestrator.data.shards.source import Segment
from orchestrator.prepare.drops import Verdicts
from orchestrator.prepare.plan import Steps, make_demos, prepare_steps, read_seen, stamp_segment
from orchestrator.prepare.segment import Chain, commit_segment
from orchestrator.prepare.shard import ShardJob, ShardReport, prepare_shard
from orchestrator.prepare.tokenizer import TrainJob, train_tokenizer
from orchestrator.storage.stores import open_stores
from orchestrator.storage.workplace import store_json

R = TypeVar("R")


def prepare(
    config: RunConfig, run_all: RunAll = run_serially, progress: Progress = tell_nobody, most: int | None = None
) -> Manifest:
    """Everything that is listed now, prepared and committed; or only the first `most` segments, and others are to come.
    With nothing missing no job runs, no shard is opened."""
    make_demos(config.data)
    steps = prepare_steps(config)
    if most is not None:
        steps = steps.first(most)
    if not steps.finished:
        _check_unseen(steps, run_all, progress)
        _commit_segments(_with_statistics(steps, run_all), run_all, progress)
        _remember_seen(steps)
    whole = Manifest.of_chain(steps.work.root, steps.chain, steps.dataset.roots)
    manifest = whole.first(len(steps.dataset.segments))
    unit = "tokens" if steps.rules.makes_tokens else "kept"
    if not manifest.segments_to_come and not any(head.totals[f"{unit}_train"] for head in manifest.segments):
        raise DataError("no sample is left to train on", where="data.train", remedy="check data.split and the shards")
    return manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexReport:
    """What the headers of a shard say. `bad` counts samples that cannot be used, `missing` those that lack a member
    which the config feeds; `problem` concerns the whole shard."""

    name: str
    samples: int
    bad: int
    missing: int
    problem: str


def index_all(config: RunConfig, run_all: RunAll = run_serially, progress: Progress = tell_nobody) -> list[IndexReport]:
    """Index every listed shard; reports by name. Raises for broken ones unless data.on_bad is skip."""
    make_demos(config.data)
    steps = prepare_steps(config)
    jobs = [IndexJob(content=_content_job(steps, shard), needed=steps.rules.needed) for shard in steps.dataset.shards]
    reports = _follow(run_all(report_index, jobs), "index", len(jobs), progress)
    return sorted(reports, key=lambda report: report.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexJob:
    content: ContentJob
    needed: Sequence[Sequence[str]]  # suffixes, of which a sample must have one, for each thing that is fed


def report_index(job: IndexJob) -> IndexReport:
    """As a task over one shard."""
    shard = job.content.shard
    index = index_shard(shard, job.content.work, job.content.on_bad, open_stores(job.content.stores))
    bad = np.array([why is not None for why in index.bad()], bool)
    lacking = np.zeros(len(index), bool)
    for suffixes in job.needed:
        lacking |= index.find_members(suffixes).suffix < 0
    missing = int((lacking & ~bad).sum())
    return IndexReport(name=shard.name, samples=len(index), bad=int(bad.sum()), missing=missing, problem=index.problem)


def _follow(results: Iterator[R], stage: str, total: int, progress: Progress) -> Iterator[R]:
    progress(stage, 0, total)
    for done, result in enumerate(results, 1):
        progress(stage, done, total)
        yield result


def _content_job(steps: Steps, shard: ShardRef) -> ContentJob:
    return ContentJob(shard=shard, work=steps.work.root, on_bad=steps.rules.on_bad, stores=steps.stores)


def _read_contents(
    steps: Steps, shards: list[ShardRef], run_all: RunAll, stage: str, progress: Progress
) -> dict[int, str]:
    """Content checksums by ordinal; read from the shards where they are not known."""
    jobs = [_content_job(steps, shard) for shard in shards]
    return dict(_follow(run_all(check_content, jobs), stage, len(jobs), progress)) if jobs else {}


def _check_unseen(steps: Steps, run_all: RunAll, progress: Progress) -> None:
    """A copy of the data that was not seen before, or has changed times, must hold what the chain holds."""
    if steps.manifest is None:
        return
    shards = [steps.dataset.shards[ordinal] for segment in steps.unseen for ordinal in segment.ordinals]
    contents = _read_contents(steps, shards, run_all, "check", progress)
    expected = steps.manifest.contents()
    for ordinal, content in sorted(contents.items()):
        if content != expected[ordinal]:
            shard = steps.dataset.shards[ordinal]
            raise DataError(
                f"shard {shard.name} holds other samples than when it was prepared",
                where=shard.url,
                remedy="put the old shard back; or give changed data another name (data.train[].name); or delete "
                f"{steps.work.chain(steps.chain)} to begin a new chain (runs on the old one can then not be resumed)",
            )


def _train_tokenizer(steps: Steps, verdicts: Verdicts, run_all: RunAll, progress: Progress) -> TokenizerInfo:
    """On segment 0; trained again when it was lost, which must give the same."""
    assert steps.tokens is not None
    assert steps.tokens.train_bpe is not None
    first = steps.dataset.segments[0]
    shards = [steps.dataset.shards[ordinal] for ordinal in first.ordinals]
    contents = _read_contents(steps, shards, run_all, "read", progress)
    job = TrainJob(
        shards=tuple(shards),
        contents=tuple(contents[shard.ordinal] for shard in shards),
        source_names=tuple(steps.dataset.source_names),
        work=steps.work.root,
        stores=steps.stores,
        rules=steps.rules,
        verdicts=tuple(verdicts.get(shard.ordinal) for shard in shards),
        vocab_size=steps.tokens.train_bpe,
    )
    (info,) = _follow(run_all(train_tokenizer, [job]), "tokenizer", 1, progress)
    if steps.manifest is not None and info.id != steps.manifest.tokenizer.id:
        raise DataError(
            f"the chain's tokenizer {steps.manifest.tokenizer.id} is lost, and training gives another, {info.id}",
            where=str(steps.work.chain(steps.chain)),
            remedy=f"restore {steps.manifest.tokenizer.path}, or delete this folder and run longhaul prepare again",
        )
    return info


def _with_statistics(steps: Steps, run_all: RunAll) -> Steps:
    if not steps.rules.clean and steps.rules.rows is None:
        return steps
    from orchestrator.prepare.collect import with_statistics  # compiled code, which not everybody needs

    return with_statistics(steps, run_all)


def _commit_segments(steps: Steps, run_all: RunAll, progress: Progress) -> None:
    """In order. Shards of all open segments are under way together, unless verdicts depend on earlier segments."""
    if not steps.rules.compares:
        tokenizer = steps.tokenizer or _train_tokenizer(steps, {}, run_all, progress)
        _prepare_segments(steps, steps.open, {}, tokenizer, run_all, progress)
        return
    from orchestrator.prepare.judging.judge import (  # compiled code, which not everybody needs
        judge_segments,
        read_verdicts,
    )

    known = steps.tokenizer
    for segment, verdicts in judge_segments(steps, run_all, progress):
        known = known or _train_tokenizer(steps, read_verdicts(steps, 0), run_all, progress)
        _prepare_segments(steps, [segment], verdicts, known, run_all, progress)
    if known is None:  # lost, while nothing else was
        _train_tokenizer(steps, read_verdicts(steps, 0), run_all, progress)


def _prepare_segments(
    steps: Steps,
    segments: Sequence[Segment],
    verdicts: Verdicts,
    tokenizer: TokenizerInfo,
    run_all: RunAll,
    progress: Progress,
) -> None:
    """Tokens of what is kept; a segment is committed when all up to it are complete."""
    if not segments:
        return
    chain = Chain(
        work=steps.work,
        name=steps.chain,
        source_names=steps.dataset.source_names,
        rules=steps.rules.id,
        tokenizer=tokenizer,
    )
    jobs = [_shard_job(steps, tokenizer, ordinal, verdicts) for segment in segments for ordinal in segment.ordinals]
    waiting: deque[Segment] = deque(segments)
    reports: dict[int, ShardReport] = {}
    for report in _follow(run_all(prepare_shard, jobs), "prepare", len(jobs), progress):
        reports[report.ordinal] = report
        while waiting and all(ordinal in reports for ordinal in waiting[0].ordinals):
            segment = waiting.popleft()
            own = [reports.pop(ordinal) for ordinal in segment.ordinals]
            commit_segment(chain, segment, _previous_id(steps, segment), own)
    assert not waiting


def _previous_id(steps: Steps, segment: Segment) -> str:
    """The id of the segment before, which is committed by now."""
    if segment.number == 0:
        return ""
    return read_head(steps.work, steps.work.segment_head(steps.chain, segment.number - 1)).id


def _shard_job(steps: Steps, tokenizer: TokenizerInfo, ordinal: int, verdicts: Verdicts) -> ShardJob:
    shard = steps.dataset.shards[ordinal]
    return ShardJob(
        shard=shard,
        source_name=steps.dataset.source_names[shard.source],
        work=steps.work.root,
        stores=steps.stores,
        rules=steps.rules,
        tokenizer=tokenizer,
        verdicts=verdicts.get(ordinal),
    )


def _remember_seen(steps: Steps) -> None:
    """What was just checked or prepared need not be opened next time, if neither size nor time changes."""
    committed = len(read_heads(steps.work, steps.chain))
    seen = {
        str(segment.number): stamp_segment(steps.dataset, segment) for segment in steps.dataset.segments[:committed]
    }
    if seen != read_seen(steps.work, steps.chain, steps.dataset):
        store_json(steps.work.seen(steps.chain, steps.dataset.roots), {"format": 1, "segments": seen})
