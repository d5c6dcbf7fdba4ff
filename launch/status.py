"""`longhaul status` and `longhaul list`: what is going on, once or as it goes on, for people and for programs."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.live import Live
from rich.table import Table
from rich.text import Text

from launch.place import Place
from launch.screen import Screen
from launch.screens.spoken import say_duration, say_loss, say_time
from launch.screens.status import STYLES, draw_line, draw_status
from orchestrator.core.words import ExitCode
from orchestrator.tracking.status import EventLine, RunStatus, SeenState, to_json

Show = Callable[[RunStatus], None]


def show_status(place: Place, name: str, *, watch: bool, as_json: bool, screen: Screen) -> ExitCode:
    """The exit code is the run's when it has been watched to its end."""
    if not watch:
        status = place.status(name)
        if as_json:
            print_json(status, screen)
        else:
            screen.console.print(draw_status(status, name, place.again), crop=False)
        return ExitCode.DONE
    try:
        last = _watch(place, name, screen, as_json=as_json)
    except KeyboardInterrupt:
        if not as_json:
            screen.say("no longer watching; the run goes on")
        return ExitCode.STOPPED  # not 0: nobody knows yet how the run will end
    return ExitCode.FAILED if last.exit_code is None else ExitCode(last.exit_code)


def show_list(place: Place, *, as_json: bool, screen: Screen) -> ExitCode:
    runs = place.runs()
    if as_json:
        for run in runs:
            print_json(run, screen)
    elif not runs:
        screen.say(f"no runs in {place.where}")
    else:
        screen.console.print(_draw_list(runs))
        for run in runs:
            if run.state is SeenState.UNREADABLE:
                screen.say(f"{run.name}: {run.reason}")
    return ExitCode.DONE


def print_json(status: RunStatus, screen: Screen) -> None:
    """On one line, at once: whoever reads may be a program that follows."""
    print(json.dumps(to_json(status)), file=screen.console.file, flush=True)


def _watch(place: Place, name: str, screen: Screen, *, as_json: bool) -> RunStatus:
    with _showing(place.again, name, screen, as_json=as_json) as show:
        for status in place.watch(name):
            show(status)
    return status


@contextmanager
def _showing(again: str, name: str, screen: Screen, *, as_json: bool) -> Iterator[Show]:
    """How one status after another is shown."""
    if as_json:
        yield lambda status: print_json(status, screen)
    elif screen.console.is_interactive:
        with Live(console=screen.console, auto_refresh=False, transient=True) as live:
            yield lambda status: live.update(draw_status(status, name, again), refresh=True)
        screen.console.print(live.renderable, crop=False)
    else:
        yield Teller(again, name, screen).tell


class Teller:
    """Where nothing can be drawn over: a line when something has changed, and all of it at the end."""

    def __init__(self, again: str, name: str, screen: Screen) -> None:
        self._again, self._name, self._screen = again, name, screen
        self._told: Sequence[EventLine] | None = None
        self._stood: object = None

    def tell(self, status: RunStatus) -> None:
        new = [event for event in status.events if event not in self._told] if self._told is not None else []
        for event in new:
            self._screen.say(f"{say_time(event.t, status.read_at)}  {event.text}")
        self._told = status.events
        if status.state.over:
            self._screen.console.print(draw_status(status, self._name, self._again), crop=False)
            return
        percent = 100 * status.step // status.steps if status.steps else 0
        stands = (status.state, status.generation, percent, status.waiting and status.waiting.ready)
        if stands != self._stood:
            self._screen.say(f"{say_time(status.read_at, status.read_at)}  {draw_line(status)}")
        self._stood = stands


def _draw_list(runs: Sequence[RunStatus]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("run", overflow="fold")
    table.add_column("state", no_wrap=True)
    for column in ("step", "loss", "ranks", "changed"):
        table.add_column(column, justify="right", no_wrap=True)
    folders = {Path(run.path).parent for run in runs}
    if len(folders) > 1:
        table.add_column("directory", overflow="fold")
    for run in runs:
        directory = [Text(run.path)] if len(folders) > 1 else []
        table.add_row(Text(run.name), Text(run.state.value, style=STYLES[run.state]), *_cells(run), *directory)
    return table


def _cells(run: RunStatus) -> tuple[str, str, str, str]:
    return (
        f"{run.step:,}/{run.steps:,}" if run.steps else "",
        say_loss(run.loss) if run.loss is not None else "",
        str(run.world_size or ""),
        f"{say_duration(run.read_at - run.updated_at)} ago" if run.updated_at is not None else "",
    )
