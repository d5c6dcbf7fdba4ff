"""Texts that the data is kept clear of: those in prepare.decontaminate.files, such as benchmark questions.

Listed and hashed in the launcher, as part of the rules; read whole by every process that signs (forbidden.py)."""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from glob import has_magic
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.core.errors import DataError
from orchestrator.storage.hashes import hash_file
from orchestrator.storage.stores import Stores
from orchestrator.storage.workplace import WorkPlace

KEY = "prepare.decontaminate.files"


class OutsideFile(NamedTuple):
    name: str  # as people see it: the file's, or folder and file
    url: str

    @property
    def holds_documents(self) -> bool:
        """Which are compared as a whole too; a line of another file is a question, not a document."""
        return self.url.endswith((".tar", ".jsonl"))


class OutsideText(NamedTuple):
    name: str  # file, and line or key
    text: str
    is_document: bool


def list_files(files: Sequence[str], stores: Stores) -> list[OutsideFile]:
    """In the order given; the shards of a folder, a glob or a store by name."""
    return [file for entry in files for file in _list_entry(entry, stores)]


def hash_files(files: Sequence[str], work: WorkPlace, stores: Stores) -> list[str]:
    """Part of the rules: with other texts, other documents go."""
    return [hash_file(file.url, work, stores) for file in list_files(files, stores)]


def read_files(files: Sequence[str], member: str, stores: Stores) -> Iterator[OutsideText]:
    """Of .tar the text of each sample, by key; of .jsonl every text in an object, of other files each line, by line."""
    for file in list_files(files, stores):
        for place, text in _read_texts(file, member, stores):
            yield OutsideText(f"{file.name}:{place}", text, file.holds_documents)


def _list_entry(entry: str, stores: Stores) -> list[OutsideFile]:
    path = Path(entry).expanduser()
    if stores.is_remote(entry) or path.is_dir() or (has_magic(entry) and not path.exists()):
        listed = stores.list(entry, KEY)
        folder = listed[0].url.removesuffix(f"/{listed[0].name}").rpartition("/")[2]
        return [OutsideFile(f"{folder}/{one.name}", one.url) for one in listed]
    if not path.is_file():
        raise DataError(
            "cannot be read: there is no such file",
            where=f"{KEY}: {entry}",
            remedy="give a .txt, .jsonl or .tar file, or a folder of tar shards",
        )
    return [OutsideFile(path.name, str(path.absolute()))]


def _read_texts(file: OutsideFile, member: str, stores: Stores) -> Iterator[tuple[str, str]]:
    opened = stores.open(file.url)
    opened.need_all()
    data = bytes(opened.data)
    if file.url.endswith(".tar"):
        yield from _read_shard(data, file.url, member)
        return
    for number, line in enumerate(_decode(data, file.url).splitlines(), 1):
        if not line.strip():
            continue
        if not file.holds_documents:
            yield str(number), line
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"line {number} is no JSON: {error}", where=f"{KEY}: {file.url}", remedy="repair it, or name it .txt"
            ) from error
        yield from ((str(number), text) for text in _find_strings(value))


def _read_shard(data: bytes, url: str, member: str) -> Iterator[tuple[str, str]]:
    found = False
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for info in tar:
                key, _, suffix = info.name.rpartition("/")[2].partition(".")
                text = tar.extractfile(info) if suffix.lower() == member else None
                if text is not None:
                    found = True
                    yield key, _decode(text.read(), f"{url}, {info.name}")
    except tarfile.TarError as error:
        raise DataError(f"is no tar shard: {error}", where=f"{KEY}: {url}", remedy="make it anew") from error
    if not found:
        raise DataError(
            f"no sample has a member .{member}", where=f"{KEY}: {url}", remedy="give shards that are like data.train"
        )


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"is no UTF-8: byte {error.start}", where=f"{KEY}: {where}", remedy="save it as UTF-8"
        ) from error


def _find_strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _find_strings(inner)
