"""Runs on a cluster that is seen only through its Ray dashboard: a launch.place.Place whose every answer is what the
same command prints there with --json. The cluster knows where its runs lie from the jobs that began them."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, TypeVar

from launch.leftovers import Leftover, PruneWish
from launch.remote.dashboard import CalledAgain, ConnectionLost, Dashboard
from orchestrator.config.problems import nearest
from orchestrator.control.connect import RUN_METADATA
from orchestrator.core.errors import BadInput, LonghaulError
from orchestrator.tracking.logs import LogLine, LogWish
from orchestrator.tracking.status import RunStatus, SeenState, from_json

_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
T = TypeVar("T")


class There:
    """`say` hears when the connection breaks."""

    def __init__(
        self, dashboard: Dashboard, say: Callable[[str], None], pause: Callable[[float], None] = time.sleep
    ) -> None:
        self._dashboard, self._say, self._pause = dashboard, say, pause

    @property
    def where(self) -> str:
        return self._dashboard.address

    @property
    def again(self) -> str:
        return f" --address {self._dashboard.address}"

    def runs(self) -> list[RunStatus]:
        paths = self._jobs_by_path()
        roots = sorted({str(path.parent) for path in paths})
        found = self._statuses("list", *(f"--root={root}" for root in roots)) if roots else []
        missing = paths.keys() - {PurePosixPath(status.path) for status in found}
        coming = [self._preparing(path, paths[path]) for path in missing if not paths[path].status.is_terminal()]
        return sorted(coming + found, key=lambda status: -(status.started_at or status.read_at))

    def status(self, name: str) -> RunStatus:
        return self._patiently(lambda: self._status(name))

    def _status(self, name: str) -> RunStatus:
        path, job = self._find(name)
        try:
            [status] = self._statuses("status", str(path))
        except LonghaulError as error:
            if isinstance(error, ConnectionLost) or job is None or job.status.is_terminal():
                raise
            return self._preparing(path, job)
        return status

    def watch(self, name: str) -> Iterator[RunStatus]:
        while (status := self.status(name)).state is SeenState.PREPARING:
            yield status
            self._pause(1.0)
        path = str(self._patiently(lambda: self._find(name))[0])
        for line in self._go_on_calling(lambda: ("status", path, "--watch", "--json")):
            yield from_json(json.loads(line))

    def logs(self, name: str, wish: LogWish) -> Iterator[LogLine]:
        path = str(self._patiently(lambda: self._find(name))[0])
        cursor = dict(wish.cursor)

        def arguments() -> tuple[str, ...]:
            rank = () if wish.rank is None else (f"--rank={wish.rank}",)
            lines = (f"--lines={wish.lines or 0}",)
            follow = ("--follow",) if wish.follow else ()
            return ("logs", path, "--json", *rank, *lines, *follow, f"--cursor={json.dumps(cursor)}")

        lines = self._go_on_calling(arguments) if wish.follow else self._lines(*arguments())
        for line in lines:
            shown = LogLine.from_json(json.loads(line))
            cursor[shown.file] = shown.cursor
            yield shown

    def ask_to_stop(self, name: str, *, at_once: bool) -> None:
        path, _ = self._find(name)
        now = ("--now",) if at_once else ()
        self._lines("stop", str(path), "--no-wait", "--json", *now)

    def leftovers(self, names: Sequence[str], wish: PruneWish) -> list[Leftover]:
        return self._prune(names, wish)

    def remove(self, names: Sequence[str], wish: PruneWish) -> list[Leftover]:
        return self._prune(names, wish, "--yes")

    def _prune(self, names: Sequence[str], wish: PruneWish, *options: str) -> list[Leftover]:
        paths = [str(self._find(name)[0]) for name in names]
        if not names:
            paths = [f"--root={root}" for root in sorted({str(path.parent) for path in self._jobs_by_path()})]
        whole = ("--whole",) if wish.whole else ()
        days = () if wish.older_than_days is None else (f"--older-than={wish.older_than_days}",)
        lines = self._lines("prune", *paths, *whole, *days, *options, "--json") if paths else []
        return [Leftover.from_json(json.loads(line)) for line in lines]

    # ---- calls ----

    def _lines(self, *arguments: str) -> list[str]:
        return self._dashboard.ask(*arguments)

    def _statuses(self, *arguments: str) -> list[RunStatus]:
        return [from_json(json.loads(line)) for line in self._lines(*arguments, "--json")]

    def _go_on_calling(self, arguments: Callable[[], Sequence[str]]) -> Iterator[str]:
        """The lines of a long call, over lost connections; it is called again with arguments that go on from there."""
        pause_s = _SHORTEST_PAUSE_S
        while True:
            try:
                for line in self._dashboard.follow(*arguments()):
                    pause_s = _SHORTEST_PAUSE_S
                    yield line
            except CalledAgain:
                continue
            except ConnectionLost as error:
                pause_s = self._wait(error, pause_s)
            else:
                return

    def _patiently(self, look: Callable[[], T]) -> T:
        """Looking may be repeated until there is an answer; asking for something may not."""
        pause_s = _SHORTEST_PAUSE_S
        while True:
            try:
                return look()
            except ConnectionLost as error:
                pause_s = self._wait(error, pause_s)

    def _wait(self, error: ConnectionLost, pause_s: float) -> float:
        """Returns how long to wait the next time."""
        self._say(f"{error.message}; trying again in {pause_s:g} s")
        self._pause(pause_s)
        return min(2 * pause_s, _LONGEST_PAUSE_S)

    # ---- which runs there are ----

    def _jobs_by_path(self) -> dict[PurePosixPath, Any]:
        """The newest job of each run."""
        found: dict[PurePosixPath, Any] = {}
        for job in self._dashboard.jobs():
            path = (job.metadata or {}).get(RUN_METADATA)
            if path:
                found.setdefault(PurePosixPath(path), job)
        return found

    def _find(self, name: str) -> tuple[PurePosixPath, Any]:
        """A run's directory there, and its newest job if the cluster remembers one."""
        paths = self._jobs_by_path()
        if name.startswith("/"):
            return PurePosixPath(name), paths.get(PurePosixPath(name))
        matching = [path for path in paths if path.name == name]
        if len(matching) == 1:
            return matching[0], paths[matching[0]]
        known = sorted({path.name for path in paths})
        if matching:
            message = f"{len(matching)} runs have this name"
            remedy = "give one by its path: " + ", ".join(map(str, matching))
        else:
            message = f"no such run on this cluster{nearest(name, known)}"
            remedy = f"it knows of: {', '.join(known) or 'none'}; older runs can be given by their path"
        raise BadInput(message, where=name, remedy=remedy)

    def _preparing(self, path: PurePosixPath, job: Any) -> RunStatus:
        """A job that has not made its run directory yet: what it said last is all there is to know."""
        said = [line for line in self._dashboard.said(job.submission_id) if line] if job.submission_id else []
        return RunStatus(
            name=path.name,
            path=str(path),
            state=SeenState.PREPARING,
            read_at=time.time(),
            reason=said[-1] if said else job.message or "",
            started_at=(job.start_time or 0) / 1e3,
        )
