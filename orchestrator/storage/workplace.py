"""The shared work place (data.work): what preparing leaves for training. Deleting it loses time only.

    <work>/
      index/<ab>/<H(url)>.arrow              headers of one shard: keys, extents, members; valid for one size and mtime
      contents/<ab>/<H(url)>.arrow           checksums of one shard's samples; valid for one size and mtime
      hashes/<ab>/<H(url, size, mtime)>.json of large files that rules name: models, benchmark files
      tokenizers/<id>/tokenizer.json         with info.json, published last
      tokenizers/requests/<H(request)>.json  which tokenizer a training request led to
      prepared/<rules>-<tokenizer>/<ab>/<H(name)>-<content>.{tokens,drops.arrow,samples.arrow}   samples published last
      signs/<rules>/<ab>/<H(name)>-<content>.signs.arrow   what of a shard's samples is compared with others
      chains/<chain>/segment-NNNNN.{shards,samples,drops,roll,verdicts}.arrow and segment-NNNNN.json   the head last
      chains/<chain>/statistics.json         of columns of segment 0, and what is done to values when they are fed
      chains/<chain>/seen-<H(roots)>.json    stamps under which a copy of the data was found equal to the chain

Everything is published whole by rename and is the same whoever makes it, so any number of preparations may share it."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from orchestrator.storage import publish
from orchestrator.storage.publish import publish_bytes, publish_json


@dataclass(frozen=True, slots=True)
class WorkPlace:
    """Names of everything in the work place. `root` is absolute, since ranks and tasks run in other folders."""

    root: Path

    @classmethod
    def at(cls, path: str | Path) -> "WorkPlace":
        return cls(Path(path).expanduser().absolute())

    def index(self, url: str) -> Path:
        return self.root / "index" / _two_levels(hash_text(url), ".arrow")

    def contents(self, url: str) -> Path:
        return self.root / "contents" / _two_levels(hash_text(url), ".arrow")

    def hash_of_file(self, url: str, stamp: str) -> Path:
        return self.root / "hashes" / _two_levels(hash_text(f"{url}\n{stamp}"), ".json")

    def tokenizer(self, tokenizer_id: str) -> Path:
        return self.root / "tokenizers" / tokenizer_id

    def tokenizer_request(self, request: str) -> Path:
        return self.root / "tokenizers" / "requests" / f"{request}.json"

    def prepared(self, rules: str, tokenizer_id: str) -> Path:
        return self.root / "prepared" / f"{rules}-{tokenizer_id}"

    def signs(self, rules: str) -> Path:
        return self.root / "signs" / rules

    def chain(self, chain: str) -> Path:
        return self.root / "chains" / chain

    def statistics(self, chain: str) -> Path:
        return self.chain(chain) / "statistics.json"

    def segment_head(self, chain: str, number: int) -> Path:
        return self.chain(chain) / f"segment-{number:05d}.json"

    def segment_table(self, chain: str, number: int, table: str) -> Path:
        return self.chain(chain) / f"segment-{number:05d}.{table}.arrow"

    def seen(self, chain: str, roots: dict[str, str]) -> Path:
        return self.chain(chain) / f"seen-{hash_text(repr(sorted(roots.items())))}.json"


def prepared_file(folder: Path, name: str, content: str, suffix: str) -> Path:
    """A file of one prepared shard; keyed by its logical name (which decides splits) and its content."""
    return folder / _two_levels(hash_text(name), f"-{content}{suffix}")


def name_prepared(content: str, verdicts: str) -> str:
    """What decides the files of a prepared shard beside rules, tokenizer and name."""
    return f"{content}-{verdicts}" if verdicts else content


def hash_text(text: str) -> str:
    return xxhash.xxh3_128_hexdigest(text.encode())


def _two_levels(digest: str, suffix: str) -> str:
    return f"{digest[:2]}/{digest}{suffix}"  # a folder of 10^6 files is slow on many shared file systems


def writing(path: Path) -> AbstractContextManager[None]:
    """Say which file could not be written, and which config key moves it."""
    return publish.writing(path, "free space there, make it writable, or set data.work")


def store_bytes(path: Path, data: bytes) -> None:
    with writing(path):
        publish_bytes(path, data)


def store_json(path: Path, value: Any) -> None:
    with writing(path):
        publish_json(path, value)
