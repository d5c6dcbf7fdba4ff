"""Who of some samples is too much alike to an earlier one: the stages of near/ as jobs, so that all cores share them.

Called by judge.py with part of a segment's number line. Bands are matched first, then pairs are compared exactly, slice
after slice, and crowds of alike pages each as one."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.mapping import RunAll
from orchestrator.core.words import ShardRef
from orchestrator.prepare.judging.line import Chapter, Ints, TextReader, open_line
from orchestrator.prepare.judging.roll import Roll
from orchestrator.prepare.near.crowd import Verdicts, decide_crowd
from orchestrator.prepare.near.decide import (
    find_surely_kept,
    follow_pairs,
    gather_sets,
    score_pairs,
    slice_pairs,
)
from orchestrator.prepare.near.documents import NearRules, Sets
from orchestrator.prepare.near.match import Matches, keys_of_sketch, match_band, sort_keys
from orchestrator.prepare.near.merge import Candidates, join_crowds, merge_matches, split_pairs

BANDS_A_JOB = 3  # so that a job's sorting outweighs opening the line
DOCUMENTS_A_JOB = 8192  # whose shingles are in memory together


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """`numbers` of the line take part, in the order of who stays; those from place `own` on are judged, if `among_own`
    also against each other. `sketch_bands`: bands and rows of sketch bytes that find candidates; none: the keys do."""

    chapter: Chapter
    numbers: NDArray[np.int64]
    own: int
    near: NearRules
    among_own: bool
    reader: TextReader
    sketch_bands: tuple[int, int] | None = None

    @property
    def bands(self) -> int:
        return self.sketch_bands[0] if self.sketch_bands else self.near.bands


class Outcome(NamedTuple):
    """Of each judged sample its partner's number on the line, -1 if it has none, and their exact similarity."""

    partners: Ints
    scores: NDArray[np.float64]


def hold_trial(trial: Trial, shards: Sequence[ShardRef], run_all: RunAll) -> Outcome:
    """`shards` are all of the dataset, by ordinal. The same whatever the order of the jobs."""
    count = len(trial.numbers) - trial.own
    partners, scores = np.full(count, -1, np.int64), np.zeros(count)
    candidates = merge_matches(_match(trial, run_all))
    similarity = _score(trial, candidates, shards, run_all)
    alike = similarity >= trial.near.threshold
    crowds, apart = join_crowds(candidates, candidates.pairs[alike])
    later, earlier, found = follow_pairs(candidates.pairs[alike][apart], similarity[alike][apart])
    partners[later - trial.own], scores[later - trial.own] = earlier, found
    jobs = [CrowdJob(trial, _needed(trial, crowd, shards), crowd) for crowd in crowds]
    for numbers, verdicts in run_all(judge_crowd, jobs):
        mine = numbers >= trial.own
        partners[numbers[mine] - trial.own] = verdicts.partner[mine]
        scores[numbers[mine] - trial.own] = verdicts.score[mine]
    partners[partners >= 0] = trial.numbers[partners[partners >= 0]]
    return Outcome(partners, scores)


class MatchJob(NamedTuple):
    trial: Trial
    bands: range


def match_bands(job: MatchJob) -> list[Matches]:
    """As a task: the candidates of some bands."""
    trial, roll = job.trial, open_line(job.trial.chapter).roll
    if trial.sketch_bands:
        every = keys_of_sketch(roll.sketch[trial.numbers], *trial.sketch_bands)
        return [_match_one(trial, roll, every[:, band]) for band in job.bands]
    return [_match_one(trial, roll, roll.keys[trial.numbers, band]) for band in job.bands]


class ScoreJob(NamedTuple):
    trial: Trial
    shards: tuple[ShardRef, ...]
    first: int  # of the pairs
    pairs: NDArray[np.uint64]
    sure: NDArray[np.bool_]


def score_slice(job: ScoreJob) -> tuple[int, NDArray[np.float64]]:
    """As a task: where its pairs begin, and how alike each two are."""
    numbers = np.unique(np.concatenate(split_pairs(job.pairs)))
    sets = _load_sets(job.trial, job.shards, numbers)
    return job.first, score_pairs(job.pairs, job.sure, numbers, sets, job.trial.near.threshold)[0]


class CrowdJob(NamedTuple):
    trial: Trial
    shards: tuple[ShardRef, ...]
    numbers: Ints


def judge_crowd(job: CrowdJob) -> tuple[Ints, Verdicts]:
    """As a task: verdicts on all of a crowd."""
    trial, roll = job.trial, open_line(job.trial.chapter).roll
    rows = trial.numbers[job.numbers]
    with gather_sets(job.numbers, partial(_load_sets, trial, job.shards), DOCUMENTS_A_JOB) as sets:
        verdicts = decide_crowd(
            job.numbers,
            sets,
            _keys(trial, rows),
            roll.sketch[rows],
            trial.own,
            trial.near.threshold,
            among_own=trial.among_own,
        )
    return job.numbers, verdicts


def _keys(trial: Trial, rows: Ints) -> NDArray[np.uint32]:
    roll = open_line(trial.chapter).roll
    return keys_of_sketch(roll.sketch[rows], *trial.sketch_bands) if trial.sketch_bands else roll.keys[rows]


def _match_one(trial: Trial, roll: Roll, keys: NDArray[np.uint32]) -> Matches:
    """The candidates of the band that has these keys. Sketches stay where they are: a copy would be most of what is in
    memory."""
    return match_band(
        sort_keys(keys[trial.own :], trial.own),
        [sort_keys(keys[: trial.own], 0)],
        trial.own,
        roll.sketch,
        trial.near.threshold,
        rows=trial.numbers,
        among_own=trial.among_own,
    )


def _match(trial: Trial, run_all: RunAll) -> list[Matches]:
    bands = [range(first, min(first + BANDS_A_JOB, trial.bands)) for first in range(0, trial.bands, BANDS_A_JOB)]
    return [match for some in run_all(match_bands, [MatchJob(trial, part) for part in bands]) for match in some]


def _score(trial: Trial, candidates: Candidates, shards: Sequence[ShardRef], run_all: RunAll) -> NDArray[np.float64]:
    sure = find_surely_kept(candidates, trial.own)
    jobs = []
    for part in slice_pairs(candidates.pairs, DOCUMENTS_A_JOB):
        pairs = candidates.pairs[part]
        needed = _needed(trial, np.concatenate(split_pairs(pairs)), shards)
        jobs.append(ScoreJob(trial, needed, part.start, pairs, sure[part]))
    scores = np.empty(len(candidates.pairs))
    for first, some in run_all(score_slice, jobs):
        scores[first : first + len(some)] = some
    return scores


def _needed(trial: Trial, numbers: Ints, shards: Sequence[ShardRef]) -> tuple[ShardRef, ...]:
    """The shards of some samples of a trial."""
    ordinals = open_line(trial.chapter).roll.ordinals[trial.numbers[numbers]]
    return tuple(shards[ordinal] for ordinal in np.unique(ordinals).tolist())


def _load_sets(trial: Trial, shards: Sequence[ShardRef], numbers: Ints) -> Sets:
    roll, rows = open_line(trial.chapter).roll, trial.numbers[numbers]
    return trial.reader.cut_sets(shards, roll.ordinals[rows], roll.places[rows], trial.near)
