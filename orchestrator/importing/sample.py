"""What travels inside an import: pieces of inputs go in; samples come out, and what was left out with its reason.

Every kind of input (lines.py, columns.py, archives.py, images.py) reads one piece as an iterator of these."""

import re
from pathlib import Path
from typing import NamedTuple

from orchestrator.core.errors import DataError

LONGEST_KEY_BYTES = 1024
_SUFFIX = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


class Input(NamedTuple):
    """One file to import. `below` is its path inside the SOURCE that was named; `stamp` changes when its bytes may."""

    path: str
    below: str
    size_bytes: int
    stamp: str


class Piece(NamedTuple):
    """A part of an input, small enough to be one worker's job: bytes `begin` to `end`, or row groups; else the whole.

    `number` is the input's, `size_bytes` about what it becomes, `label` the number of an image's class."""

    source: Input
    number: int
    size_bytes: int
    begin: int = 0
    end: int | None = None
    label: int | None = None


class Sample(NamedTuple):
    """A key and its members (suffix, bytes). `at` is where it stands in its input: a byte or a row."""

    at: int
    key: str
    members: list[tuple[str, bytes | memoryview]]


class WholeTar(NamedTuple):
    """A file that is a good shard as it is, and may be moved into place."""

    path: Path
    samples: int


class Reject(NamedTuple):
    """Something that does not get in. What is `harmless` is only counted; the rest is a fault of the input.

    `reason` is the same for all of a kind, since it is counted by; `key` says which sample."""

    at: int
    reason: str
    remedy: str = ""
    key: str = ""
    harmless: bool = False


class Unreadable(DataError):
    """An input that is cut short, damaged, or not what its name says."""


def find_key_fault(key: str) -> str:
    """Why readers of tar shards would not find the sample again under this key; "" if they do."""
    if not key:
        return "key is empty"
    if "." in key.rpartition("/")[2]:
        return "key has a dot, which begins a suffix"
    if key.startswith("/") or key.endswith("/"):
        return "key begins or ends with a slash"
    if re.match(r"__[^/]*__($|/)", key):
        return "key is of the form __x__, which readers pass over"
    if not key.isprintable():
        return "key has characters that cannot be printed"
    if len(key.encode()) > LONGEST_KEY_BYTES:
        return f"key is longer than {LONGEST_KEY_BYTES} bytes"
    return ""


def is_suffix(text: str) -> bool:
    """Whether readers give a member's suffix back as it is written here: small letters, no path."""
    return _SUFFIX.fullmatch(text) is not None
