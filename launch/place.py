"""Where runs are: `Here`, in folders of this machine (launch/here.py), or `There`, on a cluster behind a Ray dashboard
(launch/remote/there.py).

Commands that look at runs are written against a Place, so that local and remote runs are alike. What travels from there
is what the same commands print with --json."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from launch.leftovers import Leftover, PruneWish
from orchestrator.tracking.logs import LogLine, LogWish
from orchestrator.tracking.status import RunStatus


class Place(Protocol):
    """Runs are named by name or path. A name that is none raises BadInput with those there are."""

    @property
    def where(self) -> str:
        """For people: where runs are looked for."""
        ...

    @property
    def again(self) -> str:
        """What to add to a command so that it is about this place."""
        ...

    def runs(self) -> list[RunStatus]:
        """Every run, the newest first."""
        ...

    def status(self, name: str) -> RunStatus: ...

    def watch(self, name: str) -> Iterator[RunStatus]:
        """A fresh one every second; the last one is of the ended (or lost) run."""
        ...

    def logs(self, name: str, wish: LogWish) -> Iterator[LogLine]:
        """Lines of the run's logs; with wish.follow until the run has ended and everything has been read."""
        ...

    def ask_to_stop(self, name: str, *, at_once: bool) -> None:
        """Leave the request. BadInput when the run has ended already."""
        ...

    def leftovers(self, names: Sequence[str], wish: PruneWish) -> list[Leftover]:
        """What can go; all runs when no name is given."""
        ...

    def remove(self, names: Sequence[str], wish: PruneWish) -> list[Leftover]:
        """Remove it, and return what was removed."""
        ...
