"""Signs one shard: what of each sample is compared with others, and what is dropped without looking at any other.

First of the comparing: sign -> judge.py -> shard.py. As a task over one shard, idempotent: the table is published whole
in the work place, named by rules, name and content."""

from collections.abc import Sequence
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator.core.words import ShardRef
from orchestrator.data.shards.contents import read_contents
from orchestrator.data.shards.index import ShardIndex, index_shard
from orchestrator.data.shards.split import TRAIN
from orchestrator.prepare.cleaning import judge_texts
from orchestrator.prepare.drops import Drop, refuse_drops
from orchestrator.prepare.judging.forbidden import Asked, load_forbidden
from orchestrator.prepare.members import check_members, judge_alone
from orchestrator.prepare.near.documents import EXEMPT, NearRules, Signatures, Texts
from orchestrator.prepare.near.sign import sign_texts
from orchestrator.prepare.near.texts import VALID, canonical_texts, hash_texts
from orchestrator.prepare.rules import Rules
from orchestrator.prepare.splits import Splits, find_splits
from orchestrator.prepare.text import KEY, decode_texts, find_lacking, not_utf8, places_left
from orchestrator.storage.stores import Stores, StoreSettings, open_stores
from orchestrator.storage.tables import fold_rows, map_table, store_table, unfold_rows
from orchestrator.storage.workplace import WorkPlace, hash_text, name_prepared, prepared_file

COLUMNS = ("split", "hash", "kind", "keys", "sketch")


@dataclass(frozen=True, kw_only=True, slots=True)
class SignJob:
    shard: ShardRef
    source_name: str
    work: Path
    stores: StoreSettings
    rules: Rules


class Signed(NamedTuple):
    """A shard that is signed: where the table lies follows from name and content."""

    ordinal: int
    name: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Signs:
    """Of every sample of a shard, by place. `drops` are those that are out whatever others hold."""

    splits: NDArray[np.uint8]
    hashes: NDArray[np.uint64]  # a row of two numbers: equal ones are the same sample
    near: Signatures
    drops: list[Drop]


def sign_shard(job: SignJob) -> Signed:
    """As a task over one shard; does nothing when the work is done."""
    stores = open_stores(job.stores)
    index = index_shard(job.shard, job.work, job.rules.on_bad, stores)
    content = read_contents(job.shard, index, job.work, stores).content
    path = _path(job.work, job.rules, job.shard.name, content)
    if not path.exists():
        splits = find_splits(job.shard, job.source_name, index, job.rules, stores)
        _store(path, _sign(job, index, splits, stores))
    return Signed(job.shard.ordinal, job.shard.name, content)


def read_signs(work: Path, rules: Rules, signed: Signed) -> Signs:
    table, note = map_table(_path(work, rules, signed.name, signed.content))
    splits, hashes, *near = (unfold_rows(table[name]) for name in COLUMNS)
    drops = [Drop(place, rule, reason, score=score) for place, rule, reason, score in note["drops"]]
    return Signs(splits=splits, hashes=hashes, near=Signatures(*near), drops=drops)


def _path(work: Path, rules: Rules, name: str, content: str) -> Path:
    signed = name_prepared(content, hash_text(rules.statistics) if rules.statistics else "")
    return prepared_file(WorkPlace.at(work).signs(rules.id), name, signed, ".signs.arrow")


def _sign(job: SignJob, index: ShardIndex, splits: Splits, stores: Stores) -> Signs:
    rules, drops = job.rules, {drop.place: drop for drop in splits.drops}
    opened = stores.open(job.shard.url, index.stamp)
    opened.need_all()
    hashes, near = np.zeros((len(index), 2), np.uint64), _unsigned(len(index))
    if rules.fields:
        fed = check_members(opened.data, index, rules.fields)
        refuse_drops(job.shard, index, fed.drops, rules.on_bad, "data.fields")
        _add(drops, fed.drops)
        hashes = fed.checksums
        _add(drops, judge_alone(opened.data, index, job.shard, rules, list(drops.values())))
    if rules.compared_member:
        texts = _find_texts(job, index, opened.data, drops)
        hashes = hash_texts(texts)
        near = sign_texts(texts, NearRules.of(rules.near)) if rules.near is not None else near
        _add(drops, _find_forbidden(job, texts, near, splits.of))
    return Signs(splits=splits.of, hashes=hashes, near=near, drops=[drops[place] for place in sorted(drops)])


def _add(drops: dict[int, Drop], found: Sequence[Drop]) -> None:
    """Who found something first says why."""
    for drop in found:
        drops.setdefault(drop.place, drop)


def _find_texts(job: SignJob, index: ShardIndex, data: mmap | bytes, drops: dict[int, Drop]) -> Texts:
    """The texts that are compared, and what is to be said against them alone."""
    rules, member = job.rules, job.rules.compared_member
    members = index.find_members([member])
    broken = find_lacking(index, members, member)
    sizes = members.size.copy()
    sizes[[drop.place for drop in broken]] = 0
    texts, wrong = canonical_texts(data, members.begin, sizes)
    broken += [not_utf8(place, int(wrong[place]), member) for place in np.flatnonzero(wrong != VALID).tolist()]
    refuse_drops(job.shard, index, broken, rules.on_bad, KEY)
    _add(drops, broken)
    if rules.clean and rules.makes_tokens:
        left = places_left(len(index), drops.values())
        _add(drops, judge_texts(data, index, rules, decode_texts(data, members, member, left)[0]))
    return texts


def _find_forbidden(job: SignJob, texts: Texts, near: Signatures, splits: NDArray[np.uint8]) -> list[Drop]:
    """Training samples that repeat a text from outside, or are like one."""
    rules, section = job.rules, job.rules.decontaminate
    if section is None or not section.files:
        return []
    asked = Asked(
        files=tuple(section.files),
        hashes=rules.forbidden,
        member=rules.compared_member,
        ngram=section.ngram,
        near=rules.near_to_tested,
    )
    return load_forbidden(asked, job.work, job.stores).drop(texts, near, np.flatnonzero(splits == TRAIN))


def _unsigned(n: int) -> Signatures:
    """Of samples that are compared byte by byte only; Arrow has no rows of nothing."""
    return Signatures(np.full(n, EXEMPT, np.uint8), np.zeros((n, 1), np.uint32), np.zeros((n, 1), np.uint8))


def _store(path: Path, signs: Signs) -> None:
    columns = [fold_rows(column) for column in (signs.splits, signs.hashes, *signs.near)]
    drops = [[drop.place, drop.rule, drop.reason, drop.score] for drop in signs.drops]
    store_table(path, pa.table(dict(zip(COLUMNS, columns, strict=True))), {"drops": drops})
