"""Signs one shard: what of each sample is compared with others, and what is dropped without looking at any other.

First of the comparing: sign -> judge.py -> shard.py. As a task over one shard, idempotent: the table is published whole
in the work place, named by rules, name and content."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator.core.words import ShardRef
from orchestrator.data.shards.contents import read_contents
from orchestrator.data.shards.index import ShardIndex, index_shard
from orchestrator.data.shards.split import split_of
from orchestrator.prepare.members import check_members
from orchestrator.prepare.near.documents import EXEMPT, NearRules, Signatures
from orchestrator.prepare.near.sign import sign_texts
from orchestrator.prepare.near.texts import canonical_texts, hash_texts
from orchestrator.prepare.rules import Rules
from orchestrator.prepare.text import Drop, find_lacking, find_useless, refuse_drops
from orchestrator.storage.stores import Stores, StoreSettings, open_stores
from orchestrator.storage.tables import fold_rows, map_table, store_table, unfold_rows
from orchestrator.storage.workplace import WorkPlace, prepared_file

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
        splits = split_of(job.source_name, job.shard.name, index.keys(), job.rules.split)
        _store(path, _sign(job, index, splits, stores))
    return Signed(job.shard.ordinal, job.shard.name, content)


def read_signs(work: Path, rules: Rules, signed: Signed) -> Signs:
    table, note = map_table(_path(work, rules, signed.name, signed.content))
    splits, hashes, *near = (unfold_rows(table[name]) for name in COLUMNS)
    drops = [Drop(place, rule, reason) for place, rule, reason in note["drops"]]
    return Signs(splits=splits, hashes=hashes, near=Signatures(*near), drops=drops)


def _path(work: Path, rules: Rules, name: str, content: str) -> Path:
    return prepared_file(WorkPlace.at(work).signs(rules.id), name, content, ".signs.arrow")


def _sign(job: SignJob, index: ShardIndex, splits: NDArray[np.uint8], stores: Stores) -> Signs:
    if not job.rules.compared_member:
        return _sign_members(job, index, splits, stores)
    opened = stores.open(job.shard.url, index.stamp)
    opened.need_all()
    member = job.rules.compared_member
    members = index.find_members([member])
    drops = find_lacking(index, members, member)
    sizes = members.size.copy()
    sizes[[drop.place for drop in drops]] = 0
    texts, wrong = canonical_texts(opened.data, members.begin, sizes)
    useless = dict.fromkeys(np.flatnonzero((members.suffix >= 0) & (members.size == 0)).tolist(), "")
    useless |= {place: int(wrong[place]) for place in np.flatnonzero(wrong >= 0).tolist()}
    drops += find_useless(useless, member)
    refuse_drops(job.shard, index, drops, job.rules.on_bad, "prepare.tokens.text_member")
    near = job.rules.near
    signatures = sign_texts(texts, NearRules.of(near)) if near is not None else _unsigned(len(index))
    return Signs(splits=splits, hashes=hash_texts(texts), near=signatures, drops=drops)


def _sign_members(job: SignJob, index: ShardIndex, splits: NDArray[np.uint8], stores: Stores) -> Signs:
    opened = stores.open(job.shard.url, index.stamp)
    opened.need_all()
    fed = check_members(opened.data, index, job.rules.fields)
    refuse_drops(job.shard, index, fed.drops, job.rules.on_bad, "data.fields")
    return Signs(splits=splits, hashes=fed.checksums, near=_unsigned(len(index)), drops=fed.drops)


def _unsigned(n: int) -> Signatures:
    """Of samples that are compared byte by byte only; Arrow has no rows of nothing."""
    return Signatures(np.full(n, EXEMPT, np.uint8), np.zeros((n, 1), np.uint32), np.zeros((n, 1), np.uint8))


def _store(path: Path, signs: Signs) -> None:
    columns = map(fold_rows, (signs.splits, signs.hashes, *signs.near))
    drops = [[drop.place, drop.rule, drop.reason] for drop in signs.drops]
    store_table(path, pa.table(dict(zip(COLUMNS, columns, strict=True))), {"drops": drops})
