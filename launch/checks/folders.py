"""Folders that a run writes to: root, where run directories lie, and the one for temporary files."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from launch.checks.check import GIB, Check, in_gib
from orchestrator.storage.publish import create_exclusive, publish_bytes

LEAST_FREE_BYTES = 5 * GIB  # the quickstart with its data, caches and checkpoints takes less than half of it
LEAST_FREE_FILES = 10_000
MOST_USED = 0.95  # Ray refuses new objects when the disk with its temporary files is fuller


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """`path`, as seen through the nearest folder that exists. The two reasons are empty when all is well."""

    path: Path
    existing: Path
    why_not_writable: str
    why_not_published: str
    total_bytes: int
    free_bytes: int
    free_files: int | None  # None where the file system has no such limit


def look_at_folder(path: Path) -> Folder:
    existing = nearest_folder(path)
    why_not_writable = _why_not_writable(existing)
    usage, counts = shutil.disk_usage(existing), os.statvfs(existing)
    return Folder(
        path=path,
        existing=existing,
        why_not_writable=why_not_writable,
        why_not_published="" if why_not_writable else _why_not_published(existing),
        total_bytes=usage.total,
        free_bytes=usage.free,
        free_files=counts.f_favail if counts.f_files else None,
    )


def nearest_folder(path: Path) -> Path:
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def scratch_folder() -> Path:
    return Path(tempfile.gettempdir())


def check_root(root: Path, found: Folder) -> Check:
    if found.why_not_writable:
        detail = f"{root}: {found.existing} cannot be written to: {found.why_not_writable}"
        return Check("problem", "root", detail, "make it writable, or give another folder as root")
    if found.why_not_published:
        remedy = "root must be on a POSIX file system with hard links and renames, such as NFS or Lustre; not on a "
        remedy += "mounted bucket"
        return Check("problem", "root", f"{root}: {found.why_not_published}", remedy)
    if found.free_bytes < LEAST_FREE_BYTES:
        remedy = f"even small runs want {in_gib(LEAST_FREE_BYTES)}; free space, or give another folder as root"
        return Check("warning", "root", f"{root} has {in_gib(found.free_bytes)} free", remedy)
    if found.free_files is not None and found.free_files < LEAST_FREE_FILES:
        remedy = "remove files there (`df -i` counts them), or give another folder as root"
        return Check("warning", "root", f"{root} has room for {found.free_files} more files", remedy)
    return Check("ok", "root", f"{root} has {in_gib(found.free_bytes)} free")


def check_scratch(found: Folder) -> Check:
    what, remedy = "temporary files", "free space there, or point TMPDIR to another folder"
    if found.why_not_writable:
        return Check("problem", what, f"{found.path} cannot be written to: {found.why_not_writable}", remedy)
    detail = f"{found.path} has {in_gib(found.free_bytes)} free"
    used = 1 - found.free_bytes / found.total_bytes
    if used > MOST_USED:
        return Check("warning", what, f"{detail} and is {used:.0%} full: Ray stops at {MOST_USED:.0%}", remedy)
    return Check("ok", what, detail)


def _why_not_writable(folder: Path) -> str:
    """Permissions alone do not tell, file systems may be read-only."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _why_not_published(folder: Path) -> str:
    """Do what claiming a generation and publishing a checkpoint will do."""
    with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as place:
        path = Path(place) / "probe"
        try:
            create_exclusive(path, b"first")
        except OSError as error:
            return f"no hard link could be made in {folder}: {error.strerror}"
        try:
            create_exclusive(path, b"second")
        except FileExistsError:
            pass
        else:
            return f"in {folder} a hard link replaces what is there"
        try:
            publish_bytes(path, b"third")
        except OSError as error:
            return f"no file could be renamed in {folder}: {error.strerror}"
    return ""
