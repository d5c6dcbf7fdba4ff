"""Texts that must not be trained on, such as benchmark questions: a document that shares words in a row with one goes,
and so does one that is like a document among them (alike.py).

Read by outside.py; signs.py asks for each shard. What is looked for are runs of `ngram` words (in scripts without
spaces, twice as many characters), of shorter texts all their words."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.errors import DataError
from orchestrator.prepare.drops import CONTAMINATED, Drop
from orchestrator.prepare.judging.alike import Outsiders
from orchestrator.prepare.judging.outside import KEY, hash_files, list_files, read_files
from orchestrator.prepare.near.documents import NearRules, Signatures, Texts
from orchestrator.prepare.near.sign import cut_sets
from orchestrator.prepare.near.texts import canonical_texts
from orchestrator.storage.stores import StoreSettings, open_stores
from orchestrator.storage.workplace import WorkPlace

FEWEST_WORDS = 5  # a shorter text would be found everywhere


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is looked for. `hashes` are those of the rules: all machines must see the same files."""

    files: tuple[str, ...]
    hashes: tuple[str, ...]
    member: str  # that is read of tar shards
    ngram: int
    near: NearRules | None  # with the threshold of decontaminate.similarity


@dataclass(frozen=True, kw_only=True)
class Forbidden:
    """Runs of words by their width, sorted, and of each which text it is from; and the documents."""

    names: list[str]
    runs: list[tuple[int, NDArray[np.uint64], NDArray[np.int64]]]
    documents: Outsiders | None

    def drop(self, texts: Texts, signatures: Signatures, rows: NDArray[np.int64]) -> list[Drop]:
        """Of `rows` (ascending) of the texts. What is like a document is called that, whatever it repeats."""
        alike = self.documents.find(texts, signatures, rows) if self.documents is not None else {}
        drops = [Drop(row, CONTAMINATED, like.name, score=like.score) for row, like in alike.items()]
        rest = rows[~np.isin(rows, list(alike))]
        return drops + [Drop(row, CONTAMINATED, reason) for row, reason in self._find_runs(texts, rest).items()]

    def _find_runs(self, texts: Texts, rows: NDArray[np.int64]) -> dict[int, str]:
        """By document the first forbidden text that it shares a run with."""
        found: dict[int, str] = {}
        for width, runs, sources in self.runs:
            sets = cut_sets(texts, _cut_by(width), rows)
            places = np.searchsorted(runs, sets.flat).clip(max=len(runs) - 1)
            hits = np.flatnonzero(runs[places] == sets.flat)
            documents = rows[np.searchsorted(sets.ends, hits, side="right") - 1]
            for document, hit in zip(documents.tolist(), hits.tolist(), strict=True):
                found.setdefault(document, f"{width} words in a row as in {self.names[sources[places[hit]]]}")
        return found


@lru_cache(maxsize=2)
def load_forbidden(asked: Asked, work: Path, settings: StoreSettings) -> Forbidden:
    stores = open_stores(settings)
    now = hash_files(asked.files, WorkPlace.at(work), stores)
    if tuple(now) != asked.hashes:
        listed = [file.url for file in list_files(asked.files, stores)]
        changed = [url for url, before, new in zip(listed, asked.hashes, now, strict=False) if new != before]
        raise DataError(
            "is not what it was",
            where=f"{KEY}: {(changed or listed)[0]}",
            remedy="let all machines read the same files",
        )
    read = list(read_files(asked.files, asked.member, stores))
    texts, names = _as_texts([one.text for one in read]), [one.name for one in read]
    documents = None
    if asked.near is not None:
        rows = np.flatnonzero([one.is_document for one in read])
        some = Texts(texts.data, texts.begins[rows], texts.ends[rows])
        documents = Outsiders.sign([names[row] for row in rows.tolist()], some, asked.near)
    return Forbidden(names=names, runs=_list_runs(texts, asked.ngram), documents=documents)


def _list_runs(texts: Texts, ngram: int) -> list[tuple[int, NDArray[np.uint64], NDArray[np.int64]]]:
    left = np.arange(len(texts))
    runs = []
    for width in range(ngram, FEWEST_WORDS - 1, -1):  # what is too short for one width is looked for by the next
        sets = cut_sets(texts, _cut_by(width), left)
        if len(sets.flat):
            sources = left[np.repeat(np.arange(len(left)), np.diff(sets.ends))]
            unique, first = np.unique(sets.flat, return_index=True)
            runs.append((width, unique, sources[first]))
        left = left[np.diff(sets.ends) == 0]
    return runs


def _cut_by(width: int) -> NearRules:
    return NearRules(threshold=1.0, words=width, characters=2 * width, bands=1, rows=1)


def _as_texts(texts: Sequence[str]) -> Texts:
    data = [text.encode() for text in texts]
    sizes = np.array([len(one) for one in data], np.int64)
    ends = np.cumsum(sizes)
    return canonical_texts(b"".join(data) or b" ", ends - sizes, sizes)[0]
