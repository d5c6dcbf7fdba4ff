"""Tables of nodes: the ranks on each, and, while a run waits, what each has free against what is asked."""

from collections import Counter
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from launch.screens.spoken import say_span
from orchestrator.tracking.now import NodeOffer, Waiting
from orchestrator.tracking.sentences import counted
from orchestrator.tracking.status import RankStatus

MOST_RANKS = 16  # more are told by node
MOST_NODES = 16
_TRAINING = "training"  # control.jobs.RankState, which tracking only knows as text


def draw_ranks(ranks: Sequence[RankStatus]) -> RenderableType:
    """Rank by rank when they are few, otherwise node by node; the slow ones are marked."""
    nodes: dict[str, list[RankStatus]] = {}
    for rank in ranks:
        nodes.setdefault(rank.host, []).append(rank)
    return _draw_each_rank(nodes) if len(ranks) <= MOST_RANKS else _draw_each_node(nodes)


def draw_waiting(waiting: Waiting) -> RenderableType:
    """Why none fits, node by node."""
    if not waiting.nodes:
        return Text("no node of the cluster is alive", style="yellow")
    table = _table("node", "free", "why not")
    for node in waiting.nodes[:MOST_NODES]:
        why = Text(node.why_not, style="yellow") if node.why_not else Text("fits", style="green")
        table.add_row(Text(node.host), _free(node), why)
    rest = Counter(node.why_not or "fits" for node in waiting.nodes[MOST_NODES:])
    return Group(table, *(Text(f"and {counted(number, 'node')}: {why}") for why, number in rest.most_common()))


def say_amounts(amounts: dict[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in amounts.items())


def _free(node: NodeOffer) -> Text:
    return Text(", ".join(f"{node.free[name]:g} of {total:g} {name}" for name, total in node.total.items()))


def _draw_each_rank(nodes: dict[str, list[RankStatus]]) -> Table:
    table = _table("node", "> rank", "> pid", "> step", "does", "> busy", "")
    for host, ranks in nodes.items():
        for number, rank in enumerate(ranks):
            table.add_row(
                Text(host if number == 0 else ""),
                "" if rank.rank is None else str(rank.rank),
                str(rank.pid) if rank.pid else "",
                f"{rank.step:,}",
                _does(rank),
                _say_busy(rank.busy_s, rank.busy_s) if rank.busy_s else "",
                Text("slow", style="bold yellow") if rank.slow else "",
            )
    return table


def _draw_each_node(nodes: dict[str, list[RankStatus]]) -> Table:
    """When not all can be shown, those with something to see come first."""
    table = _table("node", "ranks", "> step", "does", "> busy", "")
    chosen = list(nodes.items())
    if len(chosen) > MOST_NODES:
        chosen.sort(key=lambda item: not any(rank.slow or rank.state != _TRAINING for rank in item[1]))
    for host, ranks in chosen[:MOST_NODES]:
        table.add_row(Text(host), _say_ranks(ranks), *_cells(ranks))
    rest = [rank for _, ranks in chosen[MOST_NODES:] for rank in ranks]
    if rest:
        table.add_row(f"and {len(chosen) - MOST_NODES:,} more", counted(len(rest), "rank"), *_cells(rest))
    return table


def _cells(ranks: Sequence[RankStatus]) -> tuple[str, str, str, Text]:
    busy = [rank.busy_s for rank in ranks if rank.busy_s]
    doing = Counter(map(_does, ranks)).most_common()
    return (
        say_span([rank.step for rank in ranks]),
        doing[0][0] if len(doing) == 1 else ", ".join(f"{number} {what}" for what, number in doing),
        _say_busy(min(busy), max(busy)) if busy else "",
        _say_slow([rank for rank in ranks if rank.slow]),
    )


def _say_slow(slow: Sequence[RankStatus]) -> Text:
    if not slow:
        return Text()
    return Text(f"slow: {'rank' if len(slow) == 1 else 'ranks'} {_say_ranks(slow)}", style="bold yellow")


def _say_ranks(ranks: Sequence[RankStatus]) -> str:
    """`0-3, 6`; how many there are while they have no numbers."""
    numbers = sorted(rank.rank for rank in ranks if rank.rank is not None)
    if not numbers:
        return counted(len(ranks), "rank")
    spans = [[numbers[0], numbers[0]]]
    for number in numbers[1:]:
        if number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in spans)


def _say_busy(low: float, high: float) -> str:
    return f"{high:.2f} s" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f}-{high:.2f} s"


def _does(rank: RankStatus) -> str:
    return rank.phase if rank.state == _TRAINING else rank.state


def _table(*columns: str) -> Table:
    """Numbers, marked by `> `, stand at the right."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column.removeprefix("> "), justify="right" if column[:2] == "> " else "left", overflow="fold")
    return table
