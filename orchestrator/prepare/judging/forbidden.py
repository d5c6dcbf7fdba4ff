"""Texts that must not be trained on, such as benchmark questions: a document that shares words in a row with one goes.

Read from the files of prepare.decontaminate; signs.py asks for each shard. What is compared are runs of `ngram` words
(in scripts without spaces, twice as many characters), of shorter texts all their words."""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from orchestrator.core.errors import DataError
from orchestrator.prepare.drops import CONTAMINATED, Drop
from orchestrator.prepare.near.documents import NearRules, Texts
from orchestrator.prepare.near.sign import cut_sets
from orchestrator.prepare.near.texts import canonical_texts

KEY = "prepare.decontaminate.files"
FEWEST_WORDS = 5  # a shorter text would be found everywhere


def hash_files(files: Sequence[str]) -> list[str]:
    """Part of the rules: with other texts, other documents go."""
    return [xxhash.xxh3_128_hexdigest(_read(path)) for path in files]


@dataclass(frozen=True, kw_only=True)
class Forbidden:
    """Runs of words by their width, sorted, and of each which text it is from."""

    names: list[str]  # file, and line or key
    runs: list[tuple[int, NDArray[np.uint64], NDArray[np.int64]]]

    def find(self, texts: Texts) -> dict[int, str]:
        """By document the first forbidden text that it shares a run with."""
        found: dict[int, str] = {}
        for width, runs, sources in self.runs:
            sets = cut_sets(texts, _cut_by(width))
            places = np.searchsorted(runs, sets.flat).clip(max=len(runs) - 1)
            hits = np.flatnonzero(runs[places] == sets.flat)
            documents = np.searchsorted(sets.ends, hits, side="right") - 1
            for document, hit in zip(documents.tolist(), hits.tolist(), strict=True):
                found.setdefault(document, f"{width} words in a row as in {self.names[sources[places[hit]]]}")
        return found

    def drop(self, texts: Texts) -> list[Drop]:
        return [Drop(place, CONTAMINATED, reason) for place, reason in sorted(self.find(texts).items())]


@lru_cache(maxsize=2)
def load_forbidden(files: tuple[str, ...], hashes: tuple[str, ...], ngram: int, member: str) -> Forbidden:
    """`hashes` are those of the rules: all machines must see the same files. Of tar shards `member` is read."""
    for path, before, now in zip(files, hashes, hash_files(files), strict=True):
        if now != before:
            raise DataError("is not what it was", where=f"{KEY}: {path}", remedy="let all machines read the same file")
    named = [(f"{Path(path).name}:{place}", text) for path in files for place, text in _texts_of(path, member)]
    texts = _as_texts([text for _, text in named])
    left = np.arange(len(texts))
    runs = []
    for width in range(ngram, FEWEST_WORDS - 1, -1):  # what is too short for one width is looked for by the next
        some = Texts(texts.data, texts.begins[left], texts.ends[left])
        sets = cut_sets(some, _cut_by(width))
        if len(sets.flat):
            sources = left[np.repeat(np.arange(len(some)), np.diff(sets.ends))]
            unique, first = np.unique(sets.flat, return_index=True)
            runs.append((width, unique, sources[first]))
        left = left[np.diff(sets.ends) == 0]
    return Forbidden(names=[name for name, _ in named], runs=runs)


def _cut_by(width: int) -> NearRules:
    return NearRules(threshold=1.0, words=width, characters=2 * width, bands=1, rows=1)


def _as_texts(texts: Sequence[str]) -> Texts:
    data = [text.encode() for text in texts]
    sizes = np.array([len(one) for one in data], np.int64)
    ends = np.cumsum(sizes)
    return canonical_texts(b"".join(data) or b" ", ends - sizes, sizes)[0]


def _texts_of(path: str, member: str) -> Iterator[tuple[str, str]]:
    """Of .tar the text of each sample, by key; of .jsonl every text in an object, of other files each line, by line."""
    if path.endswith(".tar"):
        yield from _texts_of_shard(path, member)
        return
    for number, line in enumerate(_decode(_read(path), path).splitlines(), 1):
        if not line.strip():
            continue
        if not path.endswith(".jsonl"):
            yield str(number), line
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"line {number} is no JSON: {error}", where=f"{KEY}: {path}", remedy="repair it, or name it .txt"
            ) from error
        yield from ((str(number), text) for text in _strings(value))


def _texts_of_shard(path: str, member: str) -> Iterator[tuple[str, str]]:
    found = False
    try:
        with tarfile.open(fileobj=io.BytesIO(_read(path)), mode="r:") as tar:
            for info in tar:
                key, _, suffix = info.name.rpartition("/")[2].partition(".")
                data = tar.extractfile(info) if suffix.lower() == member else None
                if data is not None:
                    found = True
                    yield key, _decode(data.read(), f"{path}, {info.name}")
    except tarfile.TarError as error:
        raise DataError(f"is no tar shard: {error}", where=f"{KEY}: {path}", remedy="make it anew") from error
    if not found:
        raise DataError(
            f"no sample has a member .{member}", where=f"{KEY}: {path}", remedy="give shards that are like data.train"
        )


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"is no UTF-8: byte {error.start}", where=f"{KEY}: {where}", remedy="save it as UTF-8"
        ) from error


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _read(path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror}", where=f"{KEY}: {path}", remedy="give a .txt, .jsonl or .tar file"
        ) from error
