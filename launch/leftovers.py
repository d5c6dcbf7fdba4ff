"""What of an ended run can go: found, told with its size and the reason, and removed. A run that lives, or lives again,
is left alone, and so is everything outside of its own directory.

Unless it is to go as a whole, a run keeps what resuming, proving and reading it needs."""

import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from orchestrator.checkpoint import layout
from orchestrator.checkpoint.found import Found, in_order, list_checkpoints, verify
from orchestrator.checkpoint.keep import choose_to_delete
from orchestrator.checkpoint.shelf import LocalShelf
from orchestrator.config.load import load_config
from orchestrator.config.running import KeepSection
from orchestrator.core.clock import Clock
from orchestrator.core.errors import BadInput
from orchestrator.storage.logfiles import list_log_files, rotated_file
from orchestrator.storage.publish import flush_folder
from orchestrator.tracking.journal import read_events
from orchestrator.tracking.rundir import RunDir

_DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneWish:
    """`older_than_days`: only of runs that ended so long ago. `whole`: the run itself, not only what it can spare."""

    older_than_days: float | None = None
    whole: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Leftover:
    """One file or folder that can go. `path` lies in the directory of the run with this name, or is it."""

    run: str
    path: Path
    what: str
    why: str
    size_bytes: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"path": str(self.path)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        return cls(**{**fields, "path": Path(fields["path"])})


def find_leftovers(run_dir: RunDir, wish: PruneWish, clock: Clock) -> list[Leftover]:
    """Nothing while the run lives. Quick, since checkpoints are looked at but not read."""
    return _find(run_dir, wish, clock, list_checkpoints)


def remove_leftovers(run_dir: RunDir, wish: PruneWish, clock: Clock) -> list[Leftover]:
    """Remove them; what was removed. The checkpoint that stays is read whole before others go: when it is damaged, an
    older one stays, too."""
    removed = []
    for leftover in _find(run_dir, wish, clock, _read_checkpoints):
        if _ended_at(run_dir, clock) is None:
            break  # it has been resumed meanwhile
        try:
            _remove(leftover.path, run_dir)
        except OSError as error:
            raise BadInput(f"cannot be removed: {error.strerror}", where=str(leftover.path)) from error
        removed.append(leftover)
    return removed


Listing = Callable[[Path], list[Found]]


def _find(run_dir: RunDir, wish: PruneWish, clock: Clock, list_found: Listing) -> list[Leftover]:
    ended_at = _ended_at(run_dir, clock)
    if ended_at is None or clock.now() - ended_at < _DAY_S * (wish.older_than_days or 0.0):
        return []
    if wish.whole:
        days = (clock.now() - ended_at) / _DAY_S
        found = [(run_dir.path, "run", f"{run_dir.view().state} for {days:.1f} days")]
    else:
        found = list(_spare_parts(run_dir, list_found))
    return [
        Leftover(run=run_dir.path.name, path=path, what=what, why=why, size_bytes=_size_bytes(path))
        for path, what, why in found
        if _is_own(path, run_dir)
    ]


def _ended_at(run_dir: RunDir, clock: Clock) -> float | None:
    """When the run, or its controller, was last heard of; None while it lives."""
    view = run_dir.view()
    if not view.state.ended and not view.lost(clock):
        return None
    heard = [event["t"] for event in read_events(run_dir.events)]
    return float(max([*heard, view.lease.t if view.lease else 0.0], default=0.0)) or view.touched


def _spare_parts(run_dir: RunDir, list_found: Listing) -> Iterator[tuple[Path, str, str]]:
    config = load_config(run_dir.config).config
    keep = KeepSection(last=1, best=config.checkpoint.keep.best)
    for found in choose_to_delete(list_found(run_dir.checkpoints), keep, config.evaluate.best_by):
        yield run_dir.checkpoints / found.name, "checkpoint", found.problem or "a newer one stays"
    listed = in_order(LocalShelf(run_dir.checkpoints).list())
    unfinished = [run_dir.checkpoints / name for name, files in listed if layout.COMMIT not in files]
    for path in unfinished:
        yield path, "unfinished checkpoint", "its writer died"
    for path in sorted(run_dir.path.rglob(".*.part")):
        if path.parent not in unfinished:
            yield path, "unfinished file", "its writer died"
    for path, numbers in sorted(list_log_files(run_dir.logs).items()):
        for number in numbers[:-1]:
            yield rotated_file(path, number), "older log", "newer lines stay"
    for path in sorted(run_dir.path.glob("wandb/offline-run-*"))[:-1]:
        yield path, "W&B segment", "the newest one holds the whole run"


def _read_checkpoints(folder: Path) -> list[Found]:
    """The newest ones are read whole, until one is sound; damage that a look did not show is told."""
    found = list_checkpoints(folder)
    if len(found) == 1:
        return found  # it stays anyway
    for i in reversed(range(len(found))):
        if not found[i].problem:
            problems = verify(found[i].path)
            if not problems:
                break
            found[i] = found[i]._replace(problem=problems[0])
    return found


def _is_own(path: Path, run_dir: RunDir) -> bool:
    """A link is not followed, whether it is the path itself or on the way to it."""
    return not path.is_symlink() and path.resolve().is_relative_to(run_dir.path.resolve())


def _size_bytes(path: Path) -> int:
    if not path.is_dir():
        return path.lstat().st_size
    return sum((Path(folder) / name).lstat().st_size for folder, _, names in os.walk(path) for name in names)


def _remove(path: Path, run_dir: RunDir) -> None:
    if path == run_dir.path:  # a half-removed run is none
        path = path.rename(path.with_name(f".{path.name}.{secrets.token_hex(4)}.removed"))
    elif (path / layout.COMMIT).exists():  # a half-removed checkpoint is none
        (path / layout.COMMIT).unlink()
        flush_folder(path)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
