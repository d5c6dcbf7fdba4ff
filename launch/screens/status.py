"""How a run's status looks to people: plain text with a little colour, at home in 80 columns and without colours.

It is drawn from the RunStatus alone, so remote runs look the same; "now" is when it was read."""

import shlex
from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from launch.logs import clean
from launch.screens.gauges import Bar, Sparkline
from launch.screens.node_tables import draw_ranks, draw_waiting, say_amounts
from launch.screens.spoken import say_duration, say_loss, say_seconds, say_time, say_time_spent
from orchestrator.core.words import ExitCode
from orchestrator.tracking.now import Waiting
from orchestrator.tracking.sentences import counted
from orchestrator.tracking.status import RunStatus, SeenState

LONGEST_REASON = 40  # lines; the logs have all of it
STALE_S = 5.0  # the controller shows what it sees every second
LABEL_WIDTH, BAR_WIDTH = 10, 24
_STALLED_STEPS, _STALLED_S = 10, 10.0  # without a step for so long is worth a word

STYLES = {
    SeenState.PREPARING: "yellow",
    SeenState.PENDING: "yellow",
    SeenState.RUNNING: "green",
    SeenState.STOPPING: "yellow",
    SeenState.STOPPED: "yellow",
    SeenState.FAILED: "red",
    SeenState.DONE: "green",
    SeenState.LOST: "red",
    SeenState.UNREADABLE: "red",
}


def draw_status(status: RunStatus, name: str, again: str) -> Group:
    """`name` and `again` make the commands to type next: what the run was called by, and what goes behind it.

    Print it with crop=False: commands, paths and tracebacks are one line however long, since people copy them."""
    sections = [_head(status), _facts(status), *_machines(status), *_events(status), *_next(status, name, again)]
    return Group(*[part for section in sections for part in (Text(), section)][1:])


def draw_end(status: RunStatus, name: str, again: str) -> Group:
    """Only how it stands, and the commands to type next."""
    return Group(_head(status), *_next(status, name, again))


def draw_line(status: RunStatus) -> str:
    """The same in short, where nothing can be drawn over."""
    parts = [status.state.value, f"step {_say_steps(status)}"]
    if status.waiting is not None:
        parts.append(_say_ready(status.waiting))
    if status.loss is not None:
        parts.append(f"loss {say_loss(status.loss)}")
    if status.step_s is not None:
        parts.append(f"{say_seconds(status.step_s)} a step")
    if status.eta_s is not None:
        parts.append(f"{say_duration(status.eta_s)} left")
    return "  ".join(parts)


# sections


def _head(status: RunStatus) -> RenderableType:
    state = (status.state.value, f"bold {STYLES[status.state]}")
    head = Text.assemble((status.name, "bold"), "  ", state, _more_about(status))
    if not status.reason or status.state is SeenState.LOST:
        return head
    lines = status.reason.strip().splitlines()
    left = len(lines) - LONGEST_REASON
    lines = [*lines[:LONGEST_REASON], *([f"... {left} more lines are in the logs"] if left > 0 else [])]
    return Group(head, *(_one_line(f"  {clean(line)}") for line in lines))


def _more_about(status: RunStatus) -> str:
    match status.state:
        case SeenState.PREPARING:
            return ": no controller has taken charge yet"
        case SeenState.PENDING if status.waiting is not None:
            since = say_duration(status.read_at - status.waiting.since)
            return f": waiting for nodes for {since}, {_say_ready(status.waiting)}"
        case SeenState.PENDING:
            return ": ranks warm up" if status.ranks else ""
        case SeenState.STOPPING:
            return ": waiting for the checkpoint"
        case SeenState.STOPPED | SeenState.FAILED:
            resumable = ", the machines were about to go" if status.exit_code == ExitCode.PREEMPTED else ""
            return f" at step {status.step:,}{resumable}"
        case SeenState.LOST:
            return f": {status.reason}"
        case _:
            return ""


def _facts(status: RunStatus) -> Group:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True, min_width=LABEL_WIDTH)
    table.add_column(overflow="fold")
    for name, *value in _rows(status):
        table.add_row(name, value[0] if len(value) == 1 else _side_by_side(*value))
    lines = [("directory", status.path), ("W&B", status.wandb_url)]
    return Group(table, *(_one_line((f"{name:{LABEL_WIDTH + 2}}", "dim"), value) for name, value in lines if value))


def _rows(status: RunStatus) -> Iterator[tuple[Any, ...]]:
    if status.steps:
        bar = Bar(status.step / status.steps, BAR_WIDTH)
        yield "step", bar, Text(_say_steps(status) + (f", {say_duration(status.eta_s)} left" if status.eta_s else ""))
    stalled_s = status.read_at - (status.step_at or status.read_at)
    if status.state is SeenState.RUNNING and stalled_s > max(_STALLED_S, _STALLED_STEPS * (status.step_s or 0.0)):
        yield "", Text(f"no step has been done for {say_duration(stalled_s)}", style="yellow")
    if status.loss is not None:
        yield "loss", Text(say_loss(status.loss)), Sparkline(status.losses)
    if status.validation is not None:
        perplexity = status.validation.perplexity
        more = f", perplexity {perplexity:.4g}" if perplexity is not None else ""
        yield "validation", Text(f"{say_loss(status.validation.loss)}{more}, at step {status.validation.step:,}")
    if status.step_s is not None:
        yield "speed", Text(_say_speed(status))
    if status.prepared is not None:
        yield "data", Text("{} of {} segments are prepared".format(*status.prepared))
    world = _say_world(status)
    if world:
        yield "world", Text(world)
    if status.started_at is not None:
        yield "time", Text(_say_time(status))
    if status.goodput is not None:
        yield "goodput", Text(say_time_spent(status.seconds, status.goodput))
    if status.checkpoint is not None:
        ago = say_duration(status.read_at - status.checkpoint.t)
        yield "checkpoint", Text(f"of step {status.checkpoint.step:,}, {ago} ago")


def _machines(status: RunStatus) -> Iterator[RenderableType]:
    old_s = status.read_at - (status.seen_at or status.read_at)
    note = [Text(f"as of {say_duration(old_s)} ago", style="yellow")] if old_s > STALE_S else []
    if status.waiting is not None:
        asked = Text(_say_asked(status.waiting))
        yield Group(*note, asked, draw_waiting(status.waiting))
    elif status.ranks:
        yield Group(*note, draw_ranks(status.ranks))


def _events(status: RunStatus) -> Iterator[RenderableType]:
    if not status.events:
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for event in status.events:
        table.add_row(say_time(event.t, status.read_at), Text(clean(event.text)))
    yield table


def _next(status: RunStatus, name: str, again: str) -> Iterator[RenderableType]:
    behind = f"{shlex.quote(name)}{again}"
    commands = [_one_line((f"longhaul {command} {behind}", "cyan")) for command in _NEXT[status.state]]
    if commands and _NEXT[status.state][-1] == "resume":
        commands[-1].append(f"  from step {status.checkpoint.step if status.checkpoint else 0:,}", style="dim")
    if commands:
        yield Group(*commands)


_NEXT: dict[SeenState, tuple[str, ...]] = {
    SeenState.PREPARING: ("status --watch", "stop"),
    SeenState.PENDING: ("status --watch", "stop"),
    SeenState.RUNNING: ("logs --follow", "stop"),
    SeenState.STOPPING: ("status --watch", "logs --follow"),
    SeenState.STOPPED: ("resume",),
    SeenState.FAILED: ("logs", "resume"),
    SeenState.DONE: (),
    SeenState.LOST: ("logs", "resume"),
    SeenState.UNREADABLE: (),
}


# figures


def _say_steps(status: RunStatus) -> str:
    return f"{status.step:,} of {status.steps:,}" if status.steps else f"{status.step:,}"


def _say_speed(status: RunStatus) -> str:
    parts = [f"{say_seconds(status.step_s)} a step"] if status.step_s is not None else []
    if status.tokens_per_s is not None:
        parts.append(f"{status.tokens_per_s:,.0f} tokens a second")
    if status.mfu is not None:
        parts.append(f"MFU {100 * status.mfu:.1f} %")
    if status.memory_peak_gb is not None:
        parts.append(f"{status.memory_peak_gb:.1f} GiB a rank")
    if status.data_wait is not None:
        parts.append(f"{100 * status.data_wait:.1f} % data wait")
    return ", ".join(parts)


def _say_world(status: RunStatus) -> str:
    parts = []
    if status.world_size is not None and status.nodes is not None:
        parts.append(f"{counted(status.world_size, 'rank')} on {counted(status.nodes, 'node')}")
    if status.generation > 1:
        parts.append(f"generation {status.generation}")
    if status.restarts:
        parts.append(counted(status.restarts, "restart"))
    return ", ".join(parts)


def _say_time(status: RunStatus) -> str:
    began, now = status.started_at or 0.0, status.read_at
    text = f"began {say_time(began, now)}, "
    if status.state.over:
        what = "last heard of" if status.state is SeenState.LOST else "ended"
        text += f"{what} {say_time(status.updated_at or began, now)}"
    else:
        text += f"{say_duration(now - began)} ago"
    return text


def _say_ready(waiting: Waiting) -> str:
    return f"{waiting.ready} of {waiting.needed} ready"


def _say_asked(waiting: Waiting) -> str:
    needed = f"{waiting.needed}" if waiting.needed == waiting.wanted else f"{waiting.needed} to {waiting.wanted}"
    nodes = "node" if waiting.wanted == 1 else "nodes"
    return f"asked: {needed} {nodes}, each with {say_amounts(waiting.asked)} free"


def _one_line(*parts: str | tuple[str, str]) -> Text:
    return Text.assemble(*parts, no_wrap=True, overflow="ignore")


def _side_by_side(*parts: RenderableType) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row(*parts)
    return table
