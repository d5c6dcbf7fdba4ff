"""Finds what is to be imported: every file that the sources name or hold, in an order that depends on names only."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.errors import BadInput, DataError
from orchestrator.importing.kinds import KINDS, find_kind
from orchestrator.importing.sample import Input
from orchestrator.importing.wish import KindName

_PROTOCOL = re.compile(r"^[a-z0-9+]+:", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Found:
    """Inputs of one kind, and how many files of the sources are of none."""

    sources: tuple[str, ...]
    kind: KindName
    inputs: list[Input]
    others: int


def find_inputs(sources: Sequence[str], kind: KindName | None) -> Found:
    """Without `kind` the names say it. A file that is named itself must be of it; what a folder holds beside is
    counted."""
    files = [file for source in sources for file in _list_source(source)]
    kind = kind or _agree(files)
    names = KINDS[kind].names
    inputs = [file for file in files if names.search(file.path) or file.path == file.below]
    if not inputs:
        raise DataError(
            f"no file is {kind} by its name", where=", ".join(sources), remedy="correct the sources, or --from"
        )
    return Found(tuple(sources), kind, [_name_within(file) for file in inputs], len(files) - len(inputs))


def refuse_overlap(sources: Sequence[str], folder: Path) -> None:
    """What is written must not be read again."""
    there = folder.resolve()
    for source in sources:
        here = Path(source).expanduser().resolve()
        if there == here or here in there.parents:
            raise BadInput(
                f"lies inside the source {source}", where=str(folder), remedy="name a destination outside of it"
            )


def stamp_file(path: str) -> str:
    return _stamp(Path(path).stat())


def _list_source(source: str) -> Iterator[Input]:
    """Of a file that is named itself, `below` is its whole path."""
    if _PROTOCOL.match(source):
        raise DataError(
            "only files of this machine, or of what it has mounted, can be imported",
            where=source,
            remedy="copy or mount it first",
        )
    path = os.path.abspath(Path(source).expanduser())  # noqa: PTH100  resolve() would follow links, whose names do not count
    try:
        if not Path(path).is_dir():
            yield _describe(path, path)
            return
        yield from sorted(_describe(file, os.path.relpath(file, path)) for file in _walk(path))
    except OSError as error:
        raise DataError(
            f"{error.filename} cannot be read: {error.strerror}", where=source, remedy="correct the path or its rights"
        ) from error


def _walk(top: str) -> Iterator[str]:
    """Every file that is not hidden; links to folders are followed, but not in circles."""
    visited = set()
    for root, folders, files in os.walk(top, followlinks=True, onerror=_raise):
        stat = Path(root).stat()
        here = (stat.st_dev, stat.st_ino)
        folders[:] = [] if here in visited else [name for name in folders if not name.startswith(".")]
        if here not in visited:
            yield from (f"{root}/{name}" for name in files if not name.startswith("."))
        visited.add(here)


def _raise(error: OSError) -> None:
    raise error


def _describe(path: str, below: str) -> Input:
    stat = Path(path).stat()
    return Input(path, below, stat.st_size, _stamp(stat))


def _name_within(file: Input) -> Input:
    return file._replace(below=Path(file.path).name) if file.path == file.below else file


def _stamp(stat: os.stat_result) -> str:
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def _agree(files: Sequence[Input]) -> KindName:
    """The one kind that the names say."""
    unknown = next((file for file in files if file.path == file.below and find_kind(file.path) is None), None)
    if unknown is not None:
        raise DataError(
            "its name does not say what it is",
            where=unknown.path,
            remedy="say it: --from tar, jsonl, parquet or images",
        )
    counts = Counter(kind for file in files if (kind := find_kind(file.path)) is not None)
    if len(counts) == 1:
        return next(iter(counts))
    found = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "nothing known"
    raise DataError(
        f"the sources hold {found}: one kind is imported at a time",
        remedy="choose one by --from: tar, jsonl, parquet or images",
    )
