"""`longhaul logs`: the lines of a run's logs, each with where it comes from; why the run failed stands above them."""

import json
import os
import re

from rich.console import Console
from rich.text import Text

from launch.place import Place
from launch.screen import Screen
from orchestrator.core.words import ExitCode
from orchestrator.tracking.logs import LogLine, LogWish
from orchestrator.tracking.status import RunStatus, SeenState

_RANK_STYLES = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta")
_UNPRINTABLE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0a-\x1f\x7f-\x9f]")  # what would move the cursor


def show_logs(place: Place, name: str, wish: LogWish, *, as_json: bool, screen: Screen) -> ExitCode:
    """Following gives the exit code of the run; Ctrl-C and a closed pipe end the watching only."""
    before = place.status(name)
    if before.state is SeenState.FAILED and not as_json:
        _say_state(before, screen.console)
    try:
        found = _print_lines(place, name, wish, as_json=as_json, console=screen.console)
    except KeyboardInterrupt:
        if not as_json:
            screen.say("only the watching has ended; `longhaul stop` ends a run")
        return ExitCode.STOPPED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), screen.console.file.fileno())  # for what is flushed at the exit
        return ExitCode.DONE
    if not found and not as_json:
        screen.say("no lines yet")
    if not wish.follow:
        return ExitCode.DONE
    after = place.status(name)
    if (after.state, after.reason) != (before.state, before.reason) and not as_json:
        _say_state(after, screen.console)
    return ExitCode.FAILED if after.exit_code is None else ExitCode(after.exit_code)  # a lost run has none


def _print_lines(place: Place, name: str, wish: LogWish, *, as_json: bool, console: Console) -> bool:
    """Whether there were any. Written past rich, which would take a log apart word by word."""
    margin = Margin(console)
    found = False
    for line in place.logs(name, wish):
        text = json.dumps(line.to_json()) if as_json else margin.of(line) + clean(line.text)
        print(text, file=console.file, flush=as_json or wish.follow)
        found = True
    console.file.flush()
    return found


def clean(text: str) -> str:
    """As it would stand on a terminal at last: of a progress bar the last state, and no control characters."""
    return _UNPRINTABLE.sub("", text.rstrip("\r").rpartition("\r")[2])


class Margin:
    """What stands left of a line: `rank 3 | `, in the colour of its rank, as wide as the widest so far."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._width = 0
        self._labels: dict[str, str] = {}

    def of(self, line: LogLine) -> str:
        label = line.file if line.rank is None else f"rank {line.rank}"
        self._width = max(self._width, len(label))
        if label not in self._labels:
            self._labels[label] = self._coloured(label, line.rank)
        return f"{self._labels[label]}{' ' * (self._width - len(label))} | "

    def _coloured(self, label: str, rank: int | None) -> str:
        style = "dim" if rank is None else _RANK_STYLES[rank % len(_RANK_STYLES)]
        with self._console.capture() as captured:
            self._console.print(Text(label, style), end="", soft_wrap=True)
        return captured.get()


def _say_state(status: RunStatus, console: Console) -> None:
    style = "red" if status.state in (SeenState.FAILED, SeenState.LOST) else "yellow"
    what = status.reason or f"at step {status.step}"
    console.print(Text.assemble((f"{status.state}: ", style), what), soft_wrap=True)
