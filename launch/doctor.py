"""Behind `longhaul doctor`: what this machine, or every node of a cluster, can do, and what is missing. Starts nothing.

launch/checks/ looks and judges; here the findings become lines: what is alike on several nodes is one line."""

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from launch.checks.check import MOST_NAMES, Check, Checkup, Level, name_nodes
from launch.checks.machine import check_machine
from launch.environment import has_wandb_key
from launch.screen import Screen
from orchestrator.core.words import ExitCode

COLOURS: dict[Level, str] = {"ok": "green", "warning": "yellow", "problem": "red"}
MOST_OK_LINES = 2  # of one kind; where nodes differ more, one of them stands for all


@dataclass(frozen=True, slots=True)
class Line:
    """What `nodes` have in common, of those `total` that were looked at. No nodes: it is about all of them together."""

    check: Check
    nodes: list[str]
    total: int


def show_machine(root: Path, *, as_json: bool, screen: Screen) -> ExitCode:
    """Look at this machine; takes some seconds."""
    with screen.console.status("looking at this machine"):
        checkup = Checkup({socket.gethostname(): check_machine(root, has_wandb_key=has_wandb_key())})
    return show_checkup(checkup, as_json=as_json, screen=screen)


def show_checkup(checkup: Checkup, *, as_json: bool, screen: Screen) -> ExitCode:
    if as_json:
        print(json.dumps(checkup.to_json()))
    else:
        if len(checkup.nodes) > 1:
            screen.say(f"{len(checkup.nodes)} nodes: {name_nodes(list(checkup.nodes))}")
        screen.console.print(make_table(checkup))
        screen.say(summarise(checkup))
    return exit_code(checkup)


def exit_code(checkup: Checkup) -> ExitCode:
    """Warnings do not keep a run from starting; problems do."""
    return ExitCode.BAD_INPUT if any(check.level == "problem" for check in checkup.all()) else ExitCode.DONE


def make_table(checkup: Checkup) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for line in fold(checkup):
        check = line.check
        remedy = f"\n-> {check.remedy}" if check.remedy else ""
        found = f"{_where(line, several=len(checkup.nodes) > 1)}{check.detail}{remedy}"
        table.add_row(Text(check.level, style=COLOURS[check.level]), Text(check.what), Text(found))
    return table


def summarise(checkup: Checkup) -> str:
    levels = [line.check.level for line in fold(checkup)]
    counts = {level: levels.count(level) for level in ("problem", "warning")}
    counted = [f"{count} {level}{'s' if count > 1 else ''}" for level, count in counts.items() if count]
    return " and ".join(counted) or "nothing is wrong"


def fold(checkup: Checkup) -> Iterator[Line]:
    """One line for all nodes that say the same of the same thing."""
    for what in dict.fromkeys(check.what for checks in checkup.nodes.values() for check in checks):
        nodes_of: dict[Check, list[str]] = {}
        for node, checks in checkup.nodes.items():
            for check in checks:
                if check.what == what:
                    nodes_of.setdefault(check, []).append(node)
        total = sum(len(nodes) for nodes in nodes_of.values())
        yield from _fewer_ok([Line(check, nodes, total) for check, nodes in nodes_of.items()])
    for check in checkup.across:
        yield Line(check, [], 0)


def _fewer_ok(lines: list[Line]) -> Iterator[Line]:
    fine = [line for line in lines if line.check.level == "ok"]
    if len(fine) > MOST_OK_LINES:
        first = fine[0]
        example = f"{first.check.detail} on {first.nodes[0]}, the others are fine, too"
        nodes = [node for line in fine for node in line.nodes]
        fine = [Line(Check("ok", first.check.what, example), nodes, first.total)]
    yield from fine
    yield from (line for line in lines if line.check.level != "ok")


def _where(line: Line, *, several: bool) -> str:
    """Nothing where all are fine, their number where most are; otherwise the names."""
    count, fine = len(line.nodes), line.check.level == "ok"
    if not several or not line.nodes or (count == line.total and fine):
        return ""
    if fine and count > line.total / 2:
        return f"{count} of {line.total} nodes: "
    return f"all {count} nodes: " if count == line.total > MOST_NAMES else f"{name_nodes(line.nodes)}: "
