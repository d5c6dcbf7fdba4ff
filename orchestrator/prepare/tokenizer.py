"""Where the tokenizer comes from: trained on segment 0's training text, or loaded from a file; either way a copy of it
lies in the work place under the hash of its content. After the index of segment 0, before tokens."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from orchestrator.core.errors import DataError
from orchestrator.core.words import ShardRef
from orchestrator.data.decoding.texts import KEY, parse_tokenizer
from orchestrator.data.shards.chain import TokenizerInfo
from orchestrator.data.shards.index import index_shard
from orchestrator.data.shards.split import TRAIN
from orchestrator.prepare.drops import Drop
from orchestrator.prepare.rules import Rules, hash_json
from orchestrator.prepare.splits import find_splits
from orchestrator.prepare.text import cut_text, read_kept
from orchestrator.storage.publish import read_json
from orchestrator.storage.stores import StoreSettings, open_stores
from orchestrator.storage.workplace import WorkPlace, store_bytes, store_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_MARK = "<|endoftext|>"
_KNOWN_END_MARKS = (END_MARK, "<|end_of_text|>", "</s>", "<eos>")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainJob:
    """Train a byte-level BPE on some shards (segment 0) whose content is known."""

    shards: tuple[ShardRef, ...]
    contents: tuple[str, ...]
    source_names: tuple[str, ...]
    work: Path
    stores: StoreSettings
    rules: Rules
    vocab_size: int
    verdicts: tuple[tuple[Drop, ...] | None, ...] = ()  # of each shard, where they depend on others

    @property
    def request(self) -> str:
        names = [shard.name for shard in self.shards]
        verdicts = [[astuple(drop) for drop in drops or ()] for drops in self.verdicts]
        return hash_json(["byte-level BPE 1", self.vocab_size, self.rules.id, names, list(self.contents), verdicts])


def train_tokenizer(job: TrainJob) -> TokenizerInfo:
    """As a task: found in the work place, or trained. Depends on the text alone, not on threads or order."""
    work = WorkPlace.at(job.work)
    request = work.tokenizer_request(job.request)
    if request.exists():
        found = find_tokenizer(work, read_json(request)["id"])
        if found is not None:
            return found
    info = _store(work, _train(job), END_MARK)
    store_json(request, {"format": 1, "id": info.id})
    return info


def find_tokenizer(work: WorkPlace, tokenizer_id: str) -> TokenizerInfo | None:
    """A finished tokenizer of the work place."""
    folder = work.tokenizer(tokenizer_id)
    if not (folder / "info.json").exists() or not (folder / "tokenizer.json").exists():
        return None
    value = read_json(folder / "info.json")
    return TokenizerInfo(path=str(folder / "tokenizer.json"), **{key: value[key] for key in value if key != "format"})


def import_tokenizer(work: WorkPlace, path: str) -> TokenizerInfo:
    """Copy a tokenizer.json, or that of a transformers directory, into the work place, unless its content is there."""
    text, end_mark = _read_tokenizer(Path(path).expanduser())
    return find_tokenizer(work, _hash_tokenizer(text, end_mark)) or _store(work, text, end_mark)


def read_vocab_size(path: str) -> int:
    """Entries of a tokenizer that is to be imported; writes nothing."""
    text, _ = _read_tokenizer(Path(path).expanduser())
    return _count_entries(parse_tokenizer(text, f"{KEY}={path}"))


def _train(job: TrainJob) -> bytes:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=job.vocab_size,
        special_tokens=[END_MARK],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = _training_texts(job)
    first = next(texts, None)
    if first is None:
        raise DataError(
            f"the {len(job.shards)} shards of segment 0 hold no training text to learn from",
            where=job.shards[0].url,
            remedy="check data.train[].path, data.split and prepare.tokens.text_member",
        )
    tokenizer.train_from_iterator(chain([first], texts), trainer)
    return str(tokenizer.to_str()).encode()


def _training_texts(job: TrainJob) -> Iterator[str]:
    stores = open_stores(job.stores)
    decided = job.verdicts or (None,) * len(job.shards)
    # Texts that are fed as they are have not been altered.
    rules = job.rules if job.rules.makes_tokens else replace(job.rules, clean=())
    for shard, verdicts in zip(job.shards, decided, strict=True):
        index = index_shard(shard, job.work, job.rules.on_bad, stores)
        splits = find_splits(shard, job.source_names[shard.source], index, job.rules, stores)
        kept = read_kept(shard, index, rules, stores, verdicts, splits.drops)
        for place, text in zip(kept.places, kept.texts, strict=True):
            if splits.of[place] == TRAIN:
                yield from (text[begin:end] for begin, end in cut_text(text))


def _store(work: WorkPlace, text: bytes, end_mark: str) -> TokenizerInfo:
    tokenizer = parse_tokenizer(text, KEY)
    end_id = tokenizer.token_to_id(end_mark)
    if end_id is None:
        raise _no_end_mark(f"its vocabulary has no {end_mark!r}", KEY)
    size = _count_entries(tokenizer)
    folder = work.tokenizer(_hash_tokenizer(text, end_mark))
    path = folder / "tokenizer.json"
    info = TokenizerInfo(
        path=str(path), id=folder.name, vocab_size=size, end_id=end_id, token_bytes=2 if size <= 2**16 else 4
    )
    store_bytes(path, text)
    store_json(
        folder / "info.json", {"format": 1, **{key: value for key, value in asdict(info).items() if key != "path"}}
    )
    return info


def _count_entries(tokenizer: "Tokenizer") -> int:
    """One more than the largest id; ids may have gaps."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def _hash_tokenizer(text: bytes, end_mark: str) -> str:
    return xxhash.xxh3_128_hexdigest(end_mark.encode() + b"\0" + text)


def _read_tokenizer(path: Path) -> tuple[bytes, str]:
    """The bytes of a tokenizer.json, and its end mark."""
    where = f"{KEY}={path}"
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        text = file.read_bytes()
    except OSError as error:
        remedy = f"set {KEY} to a tokenizer.json, or to a directory that a transformers fast tokenizer was saved to"
        raise DataError(
            f"{file} cannot be read: {os.strerror(error.errno or 0)}", where=where, remedy=remedy
        ) from error
    config = path / "tokenizer_config.json"
    if path.is_dir() and config.exists():
        end_mark = _as_text(_load_json(config.read_bytes(), where).get("eos_token"))
        if end_mark:
            return text, end_mark
    added = _load_json(text, where).get("added_tokens") or []
    known = [token["content"] for token in added if token.get("content") in _KNOWN_END_MARKS]
    if len(known) != 1:
        raise _no_end_mark(f"of the end marks {_KNOWN_END_MARKS} it has {known or 'none'}", where)
    return text, str(known[0])


def _load_json(text: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DataError(f"is not valid JSON: {error}", where=where, remedy=f"set {KEY} to a tokenizer.json") from error
    return value if isinstance(value, dict) else {}


def _as_text(token: object) -> str:
    """transformers writes a token as text or as an object with its content."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _no_end_mark(why: str, where: str) -> DataError:
    return DataError(
        f"names no end-of-document token: {why}",
        where=where,
        remedy="point it at a transformers directory whose tokenizer_config.json has eos_token",
    )
