"""`longhaul prune`: shows what of ended runs can go, and removes it when told to."""

import json
from collections.abc import Sequence
from itertools import groupby

from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from launch.leftovers import Leftover, PruneWish
from launch.place import Place
from launch.screen import Screen
from orchestrator.core.errors import BadInput
from orchestrator.core.words import ExitCode

_MOST_NAMES = 4  # in one row; --json has all


def prune(place: Place, names: Sequence[str], wish: PruneWish, *, yes: bool, as_json: bool, screen: Screen) -> ExitCode:
    """Without `yes` nothing is removed."""
    check_wish(names, wish)
    living = [status for status in map(place.status, names) if not status.state.over]
    leftovers = place.remove(names, wish) if yes else place.leftovers(names, wish)
    if as_json:
        for leftover in leftovers:
            print(json.dumps(leftover.to_json()), file=screen.console.file)
        return ExitCode.DONE
    for status in living:
        screen.say(f"{status.name} is {status.state}, so it is left alone")
    if leftovers:
        screen.console.print(draw_leftovers(leftovers))
    screen.say(_sum_up(leftovers, removed=yes))
    return ExitCode.DONE


def check_wish(names: Sequence[str], wish: PruneWish) -> None:
    days = wish.older_than_days
    if days is not None and not days >= 0:
        raise BadInput(f"{days:g} is no number of days", where="--older-than", remedy="for example --older-than 30")
    if wish.whole and not names and days is None:
        remedy = "name the runs that shall go, or give --older-than DAYS"
        raise BadInput("would remove every run that has ended", where="--whole", remedy=remedy)


def draw_leftovers(leftovers: Sequence[Leftover]) -> Table:
    """A row for what goes from one run for one reason."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("run", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("what", overflow="fold")
    table.add_column("why", overflow="fold")
    for (run, what, why), group in groupby(leftovers, lambda one: (one.run, one.what, one.why)):
        same = list(group)
        size_bytes = sum(one.size_bytes for one in same)
        table.add_row(Text(run), decimal(size_bytes), Text(_name_all(what, same)), Text(why))
    return table


def _name_all(what: str, same: Sequence[Leftover]) -> str:
    names = [str(one.path) if what == "run" else one.path.name for one in same]
    left = len(names) - _MOST_NAMES
    more = f"\nand {left} more" if left > 0 else ""
    return f"{what}{'s' if len(names) > 1 else ''}:\n" + "\n".join(names[:_MOST_NAMES]) + more


def _sum_up(leftovers: Sequence[Leftover], *, removed: bool) -> str:
    if not leftovers:
        return "nothing to remove"
    size = decimal(sum(one.size_bytes for one in leftovers))
    return f"{size} removed" if removed else f"{size} can go; nothing has been removed yet, --yes removes it"
