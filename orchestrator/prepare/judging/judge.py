"""Decides which samples of a segment stay, where that depends on other samples: contaminated ones, then duplicates.

Between signs.py and shard.py, segment after segment, each compared with itself and with what earlier ones kept. What is
decided is published beside the chain: the roll of what was compared, then the verdicts."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from orchestrator.core.mapping import Progress, RunAll
from orchestrator.data.shards.source import Segment
from orchestrator.data.shards.split import TRAIN
from orchestrator.prepare.drops import CONTAMINATED, DUPLICATES, Drop, Verdicts
from orchestrator.prepare.judging.exact import find_twins
from orchestrator.prepare.judging.guard import check_losses
from orchestrator.prepare.judging.line import Chapter, Ints, TextReader, open_line
from orchestrator.prepare.judging.roll import Roll
from orchestrator.prepare.judging.signs import Signed, SignJob, Signs, read_signs, sign_shard
from orchestrator.prepare.judging.trial import Trial, hold_trial
from orchestrator.prepare.near.bands import choose_sketch_bands
from orchestrator.prepare.near.documents import EXEMPT, NearRules
from orchestrator.prepare.plan import Steps
from orchestrator.prepare.rules import hash_json
from orchestrator.prepare.shard import DROPS
from orchestrator.storage.tables import map_table, store_table

EXACT, NEAR = DUPLICATES
VERDICTS = pa.schema([pa.field("ordinal", pa.int64()), *DROPS])


def judge_segments(steps: Steps, run_all: RunAll, progress: Progress) -> Iterator[tuple[Segment, Verdicts]]:
    """The open segments in order. Shards of all of them are signed meanwhile."""
    jobs = [_sign_job(steps, ordinal) for segment in steps.open for ordinal in segment.ordinals]
    waiting = deque(steps.open)
    signed: dict[int, Signed] = {}
    progress("sign", 0, len(jobs))
    for done, report in enumerate(run_all(sign_shard, jobs), 1):
        progress("sign", done, len(jobs))
        signed[report.ordinal] = report
        while waiting and all(ordinal in signed for ordinal in waiting[0].ordinals):
            segment = waiting.popleft()
            yield segment, _judge_segment(steps, segment, [signed.pop(n) for n in segment.ordinals], run_all)
    assert not waiting


def read_verdicts(steps: Steps, number: int) -> Verdicts:
    """What was decided on a segment: drops by ordinal, for every shard of it."""
    table, note = map_table(_chapter(steps, number).verdicts)
    found: dict[int, list[Drop]] = {ordinal: [] for ordinal in range(*note["ordinals"])}
    for ordinal, *rest in zip(*(table[name].to_pylist() for name in VERDICTS.names), strict=True):
        found[ordinal].append(Drop(*rest))
    return {ordinal: tuple(drops) for ordinal, drops in found.items()}


def _judge_segment(steps: Steps, segment: Segment, signed: Sequence[Signed], run_all: RunAll) -> Verdicts:
    """Found in the work place if it rests on the same, else decided."""
    basis = hash_json([_basis_before(steps, segment), [[one.name, one.content] for one in signed]])
    chapter = replace(_chapter(steps, segment.number), basis=basis)
    paths = (chapter.roll, chapter.verdicts)
    if not all(path.exists() and map_table(path)[1]["basis"] == basis for path in paths):
        signs = {one.ordinal: read_signs(steps.work.root, steps.rules, one) for one in signed}
        _call_roll(steps, signs).store(chapter.roll, {"basis": basis})
        drops = {ordinal: list(of_shard.drops) for ordinal, of_shard in signs.items()}
        for ordinal, drop in _Case(steps, chapter, run_all).judge():
            drops[ordinal].append(drop)
        if steps.rules.dedup is not None:
            sizes = {ordinal: len(of_shard.splits) for ordinal, of_shard in signs.items()}
            check_losses(steps, sizes, drops)
        _store_verdicts(chapter, segment, drops, basis)
    return read_verdicts(steps, segment.number)


class _Case:
    """A segment's samples before the judge: whoever is out is not compared any further."""

    def __init__(self, steps: Steps, chapter: Chapter, run_all: RunAll) -> None:
        self._steps, self._chapter, self._run_all = steps, chapter, run_all
        line = open_line(chapter)
        self._roll, self._own = line.roll, line.own
        self._stays = np.ones(len(line.roll), bool)

    def judge(self) -> Iterator[tuple[int, Drop]]:
        """Ordinals and drops, each sample at most once."""
        dedup = self._steps.rules.dedup
        if self._steps.rules.near_to_tested is not None:
            for number, (partner, score) in self._find_contaminated(self._steps.rules.near_to_tested).items():
                self._stays[number] = False
                yield self._drop(number, CONTAMINATED, partner, score)
        twins = self._find_twins() if dedup is not None and dedup.exact else np.empty((0, 2), np.int64)
        self._stays[twins[:, 0]] = False
        near = self._find_near(NearRules.of(dedup.near)) if dedup is not None and dedup.near is not None else {}
        for number, (partner, score) in near.items():
            yield self._drop(number, NEAR, partner, score)
        for number, first in twins.tolist():
            # the same text as one that is itself a duplicate
            partner, score = near.get(first, (first, 1.0))
            yield self._drop(number, NEAR if first in near else EXACT, partner, score)

    def _find_contaminated(self, near: NearRules) -> dict[int, tuple[int, float]]:
        """Training samples close to tested ones: inside a segment they go; of two segments the later sample goes."""
        takes_part = self._stays & (self._roll.kinds != EXEMPT)
        numbers = np.arange(len(self._roll))
        trains, is_own = self._roll.splits == TRAIN, numbers >= self._own
        found = dict[int, tuple[int, float]]()
        for fixed, judged in ((~trains, trains & is_own), (trains & ~is_own, ~trains & is_own)):
            first, second = np.flatnonzero(fixed & takes_part), np.flatnonzero(judged & takes_part)
            trial = self._trial(np.concatenate([first, second]), len(first), near, among_own=False)
            found |= self._hold(replace(trial, sketch_bands=choose_sketch_bands(near)))
        return found

    def _find_twins(self) -> Ints:
        """Rows of two numbers: a sample, and the first that is the same."""
        stays = np.flatnonzero(self._stays)
        own = int(np.searchsorted(stays, self._own))
        hashes = self._roll.hashes[stays]
        first = find_twins([hashes[:own]], hashes[own:])
        later = np.flatnonzero(first != np.arange(own, len(stays)))
        return np.stack([stays[own:][later], stays[first[later]]], axis=1)

    def _find_near(self, near: NearRules) -> dict[int, tuple[int, float]]:
        numbers = np.flatnonzero(self._stays & (self._roll.kinds != EXEMPT))
        return self._hold(self._trial(numbers, int(np.searchsorted(numbers, self._own)), near, among_own=True))

    def _hold(self, trial: Trial) -> dict[int, tuple[int, float]]:
        """By number who goes, for which other, and how alike they are."""
        if trial.own in (0, len(trial.numbers)) and not (trial.among_own and len(trial.numbers)):
            return {}
        outcome = hold_trial(trial, self._steps.dataset.shards, self._run_all)
        found = np.flatnonzero(outcome.partners >= 0)
        rows = zip(outcome.partners[found].tolist(), outcome.scores[found].tolist(), strict=True)
        return dict(zip(trial.numbers[trial.own :][found].tolist(), rows, strict=True))

    def _trial(self, numbers: Ints, own: int, near: NearRules, *, among_own: bool) -> Trial:
        reader = TextReader(work=self._steps.work.root, stores=self._steps.stores, rules=self._steps.rules)
        return Trial(chapter=self._chapter, numbers=numbers, own=own, near=near, among_own=among_own, reader=reader)

    def _drop(self, number: int, rule: str, partner: int, score: float) -> tuple[int, Drop]:
        ordinals, places = self._roll.ordinals, self._roll.places
        drop = Drop(int(places[number]), rule, "", int(ordinals[partner]), int(places[partner]), score)
        return int(ordinals[number]), drop


def _call_roll(steps: Steps, signs: Mapping[int, Signs]) -> Roll:
    """The samples of a segment that nothing has dropped so far, those of preferred sources first."""
    prefer = steps.rules.dedup.prefer if steps.rules.dedup else []

    def rank(ordinal: int) -> tuple[int, int]:
        name = steps.dataset.source_names[steps.dataset.shards[ordinal].source]
        return (prefer.index(name) if name in prefer else len(prefer), ordinal)

    return Roll.join([Roll.of_shard(ordinal, signs[ordinal]) for ordinal in sorted(signs, key=rank)])


def _basis_before(steps: Steps, segment: Segment) -> str:
    """Stands for all that the verdicts of earlier segments rest on."""
    if segment.number == 0:
        return steps.rules.id
    return str(map_table(_chapter(steps, segment.number - 1).verdicts)[1]["basis"])


def _chapter(steps: Steps, number: int) -> Chapter:
    return Chapter(work=steps.work.root, chain=steps.chain, number=number)


def _sign_job(steps: Steps, ordinal: int) -> SignJob:
    shard = steps.dataset.shards[ordinal]
    name = steps.dataset.source_names[shard.source]
    return SignJob(shard=shard, source_name=name, work=steps.work.root, stores=steps.stores, rules=steps.rules)


def _store_verdicts(chapter: Chapter, segment: Segment, drops: Mapping[int, list[Drop]], basis: str) -> None:
    rows = [
        (ordinal, drop) for ordinal in segment.ordinals for drop in sorted(drops[ordinal], key=lambda drop: drop.place)
    ]
    columns = [[getattr(drop, name) for _, drop in rows] for name in VERDICTS.names[1:]]
    table = pa.table([[ordinal for ordinal, _ in rows], *columns], schema=VERDICTS)
    ordinals = [segment.ordinals.start, segment.ordinals.stop]
    store_table(chapter.verdicts, table, {"basis": basis, "ordinals": ordinals})
