"""Runs in folders of this machine: a launch.place.Place that reads run directories, and asks for things by leaving
requests in them. Needs no connection to anything."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from launch.leftovers import Leftover, PruneWish, find_leftovers, remove_leftovers
from orchestrator.config.problems import nearest
from orchestrator.core.clock import Clock, SystemClock
from orchestrator.core.errors import BadInput, LonghaulError
from orchestrator.storage.publish import read_json
from orchestrator.tracking.logs import LogLine, LogWish, read_log_lines
from orchestrator.tracking.look import read_status, read_summary
from orchestrator.tracking.rundir import RunDir
from orchestrator.tracking.status import RunStatus, SeenState

DEFAULT_ROOT = Path("runs")
WATCH_EVERY_S = 1.0
_MOST_NAMES = 20


class Here:
    """`roots` are folders of run directories."""

    def __init__(self, roots: Sequence[Path] = (DEFAULT_ROOT,), clock: Clock | None = None) -> None:
        self._roots, self._clock = roots, clock or SystemClock()

    @property
    def where(self) -> str:
        return ", ".join(str(root.absolute()) for root in self._roots)

    @property
    def again(self) -> str:
        if list(self._roots) == [DEFAULT_ROOT]:
            return ""
        return "".join(f" --root {shlex.quote(str(root))}" for root in self._roots)

    def runs(self) -> list[RunStatus]:
        found = [run for run in map(self._summary, self._all()) if run is not None]
        return sorted(found, key=lambda run: run.started_at or run.read_at, reverse=True)

    def status(self, name: str) -> RunStatus:
        return read_status(self._find(name), self._clock)

    def watch(self, name: str) -> Iterator[RunStatus]:
        run_dir = self._find(name)
        while not (status := read_status(run_dir, self._clock)).state.over:
            yield status
            self._clock.sleep(WATCH_EVERY_S)
        yield status

    def logs(self, name: str, wish: LogWish) -> Iterator[LogLine]:
        return read_log_lines(self._find(name), wish, self._clock)

    def ask_to_stop(self, name: str, *, at_once: bool) -> None:
        run_dir = self._find(name)
        status = read_summary(run_dir, self._clock)
        if status.state.over:
            raise _cannot_stop(status, f"longhaul resume {shlex.quote(name)}{self.again}")
        run_dir.ask_to_stop(self._clock, at_once=at_once)

    def leftovers(self, names: Sequence[str], wish: PruneWish) -> list[Leftover]:
        return [one for run_dir in self._named(names) for one in find_leftovers(run_dir, wish, self._clock)]

    def remove(self, names: Sequence[str], wish: PruneWish) -> list[Leftover]:
        return [one for run_dir in self._named(names) for one in remove_leftovers(run_dir, wish, self._clock)]

    def _named(self, names: Sequence[str]) -> list[RunDir]:
        """All runs that can be read when no name is given."""
        return [self._find(name) for name in names] if names else [run for run in self._all() if self._can_read(run)]

    def _can_read(self, run_dir: RunDir) -> bool:
        status = self._summary(run_dir)
        return status is not None and status.state is not SeenState.UNREADABLE

    def _all(self) -> list[RunDir]:
        return [RunDir(path.absolute()) for root in self._roots for path in _run_paths(root)]

    def _find(self, name: str) -> RunDir:
        return find_run(name, *self._roots)

    def _summary(self, run_dir: RunDir) -> RunStatus | None:
        """None when the run has just been removed."""
        try:
            _check_is_run(run_dir)
            return read_summary(run_dir, self._clock)
        except (LonghaulError, OSError, ValueError, KeyError) as error:
            if not run_dir.path.exists():
                return None
            return RunStatus(
                name=run_dir.path.name,
                path=str(run_dir.path),
                state=SeenState.UNREADABLE,
                read_at=self._clock.now(),
                reason=str(error),
            )


def find_run(name: str, *roots: Path) -> RunDir:
    """A run by path, or by name below one of `roots`."""
    places = [Path(name)] if (Path(name) / "config.yaml").is_file() else [root / name for root in roots]
    found = [RunDir(path.absolute()) for path in places if (path / "config.yaml").is_file()]
    if len(found) > 1:
        paths = ", ".join(str(run.path) for run in found)
        raise BadInput(f"{len(found)} runs have this name", where=name, remedy=f"give one by its path: {paths}")
    if not found:
        known = [path.name for root in roots for path in _run_paths(root)]
        folders = ", ".join(map(str, roots))
        remedy = f"runs in {folders}: {_some(known)}" if known else f"{folders} holds no runs; --root names another"
        raise BadInput(f"no such run{nearest(name, known)}", where=name, remedy=remedy)
    _check_is_run(found[0])
    return found[0]


def _run_paths(root: Path) -> list[Path]:
    """Half-made ones, whose names begin with a dot, are left out; so is what only has a config."""
    paths = (path.parent for path in root.glob("*/config.yaml"))
    return sorted(path for path in paths if not path.name.startswith(".") and RunDir(path).events.is_dir())


def _check_is_run(run_dir: RunDir) -> None:
    missing = [path.name for path in (run_dir.events, run_dir.manifest, run_dir.plan) if not path.exists()]
    if missing:
        raise BadInput(
            f"has a config.yaml, but is no run of Longhaul: {', '.join(missing)} not found",
            where=str(run_dir.path),
            remedy="`longhaul run CONFIG` begins a run; `longhaul list --root FOLDER` shows the runs of a folder",
        )
    read_json(run_dir.plan)  # names a format of a later version


def _some(names: Sequence[str]) -> str:
    left = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {left} more" if left > 0 else "")


def _cannot_stop(status: RunStatus, resume: str) -> BadInput:
    match status.state:
        case SeenState.DONE:
            return BadInput("the run is done, there is nothing to stop", where=status.path)
        case SeenState.LOST:
            message = f"{status.reason}, so nobody would hear the request; what is left of the run ends by itself"
            return BadInput(message, where=status.path, remedy=f"`{resume}` goes on from its newest checkpoint")
        case _:
            message = f"the run has {status.state} already"
            return BadInput(message, where=status.path, remedy=f"`{resume}` goes on with it")
