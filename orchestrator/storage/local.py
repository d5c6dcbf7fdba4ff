"""Finds shards and opens them. One listing names every shard of a source, its size and time; no shard is opened for it.

Files of this machine or of what it has mounted; stores.py chooses between this and remote.py, which lists alike."""

import glob
import mmap
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.errors import DataError

SUFFIX = ".tar"
_COMPRESSED = re.compile(r"\.(tgz|tbz2?|txz|tzst|tar\.(gz|bz2|xz|zst|lz4|br|Z))$", re.IGNORECASE)
_FILE = re.compile(r"^file://", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """One shard as the store shows it. `stamp` changes when the bytes may have; `url` is a root, "/" and `name`."""

    name: str
    url: str
    size_bytes: int
    stamp: str


def list_local(path: str, key: str = "path") -> list[Listed]:
    """The shards below a folder, matching a glob, or the one named, sorted by name. `key` is the config key to name."""
    where = f"{key}={path}"
    named = _FILE.match(path)
    path = path[named.end() :] if named else os.path.expanduser(path)  # noqa: PTH111  Path would drop a trailing slash
    try:
        if glob.has_magic(path) and not Path(path).exists():
            root, found = _find_by_glob(path)
        elif Path(path).is_dir():
            root, found = path, list(_walk(path, set()))
        else:
            root, found = str(Path(path).parent), [(path, Path(path).stat())]
            if not is_shard(path, where):
                raise DataError(
                    "is no tar shard: its name does not end in .tar",
                    where=where,
                    remedy=f"name a folder of shards in {key}",
                )
    except FileNotFoundError as error:
        hint = "; write a glob like shard-*.tar instead of braces" if "{" in path else ""
        raise DataError(
            f"{error.filename} does not exist", where=where, remedy=f"set {key} to a folder of tar shards{hint}"
        ) from error
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror}", where=where, remedy=f"make {error.filename} readable"
        ) from error
    root = os.path.abspath(root)  # noqa: PTH100  resolve() would follow links, and names must not depend on where they lead
    listed = [_describe(root, os.path.abspath(file), stat) for file, stat in found if is_shard(file, where)]  # noqa: PTH100
    return sort_listed(listed, where, key)


def sort_listed(listed: list[Listed], where: str, key: str) -> list[Listed]:
    """By name; a source without shards is refused."""
    if not listed:
        raise DataError("holds no tar shards", where=where, remedy=f"put *.tar files there or correct {key}")
    return sorted(listed, key=lambda one: one.name)


def is_shard(name: str, where: str) -> bool:
    """Whether a name is a shard's. Compressed ones are refused, unless `where` is empty."""
    if where and _COMPRESSED.search(name):
        raise DataError(
            f"{name} is compressed, so its samples cannot be read by position",
            where=where,
            remedy="make plain .tar shards of it with longhaul import",
        )
    return name.endswith(SUFFIX)


def stamp_local(url: str) -> str:
    """The stamp of one shard now."""
    try:
        return _stamp(Path(url).stat())
    except OSError as error:
        raise _unreadable(url, error) from error


def map_local(url: str) -> mmap.mmap | bytes:
    """The bytes of a shard, mapped into memory."""
    try:
        with Path(url).open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return b""  # cannot be mapped
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise _unreadable(url, error) from error


def _unreadable(url: str, error: OSError) -> DataError:
    return DataError(f"cannot be read: {error.strerror}", where=url, remedy="put it back or make it readable")


def _walk(folder: str, visited: set[tuple[int, int]]) -> Iterator[tuple[str, os.stat_result]]:
    here = Path(folder).stat()
    if (here.st_dev, here.st_ino) in visited:
        return  # a link that leads back
    visited.add((here.st_dev, here.st_ino))
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(entry.path, visited)
            elif is_shard(entry.name, "") or _COMPRESSED.search(entry.name):
                yield entry.path, entry.stat()


def _find_by_glob(pattern: str) -> tuple[str, list[tuple[str, os.stat_result]]]:
    fixed = []
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    files = [file for file in glob.glob(pattern, recursive=True) if Path(file).is_file()]  # noqa: PTH207
    return (str(Path(*fixed)) if fixed else "."), [(file, Path(file).stat()) for file in files]


def _describe(root: str, file: str, stat: os.stat_result) -> Listed:
    name = os.path.relpath(file, root).replace(os.sep, "/")
    return Listed(name=name, url=f"{root.rstrip('/')}/{name}", size_bytes=stat.st_size, stamp=_stamp(stat))


def _stamp(stat: os.stat_result) -> str:
    return f"{stat.st_size}-{stat.st_mtime_ns}"
