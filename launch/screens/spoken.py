"""Figures as people say them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from orchestrator.config.training import METRICS
from orchestrator.tracking.goodput import GOOD


def say_duration(seconds: float) -> str:
    """In the one or two units that matter."""
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min"
    if whole < 86_400:
        return f"{whole // 3_600} h {whole % 3_600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3_600} h"


def say_time_spent(seconds: Mapping[str, float], goodput: float) -> str:
    """Goodput, and what else took time worth a word, the most first."""
    total, least = sum(seconds.values()), 0.001
    other = sorted(((spent, label) for label, spent in seconds.items() if label not in GOOD), reverse=True)
    told = [f"{label} {say_duration_shortly(spent)}" for spent, label in other if spent >= least * total]
    return f"{100 * goodput:.1f} % of {say_duration_shortly(total)}" + (f"; {', '.join(told)}" if told else "")


def say_duration_shortly(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else say_duration(seconds)


def say_seconds(seconds: float) -> str:
    """Of a step."""
    return f"{seconds:.0f} s" if seconds >= 100 else f"{seconds:.3g} s"


def say_time(t: float, now: float) -> str:
    """On the clock of the wall here; with the day when it is another one than that of `now`."""
    when = datetime.fromtimestamp(t)
    return f"{when:%H:%M:%S}" if when.date() == datetime.fromtimestamp(now).date() else f"{when:%Y-%m-%d %H:%M}"


def say_loss(loss: float) -> str:
    return f"{loss:.4f}" if abs(loss) < 1_000 else f"{loss:.4g}"


def say_metrics(row: Mapping[str, Any]) -> str:
    """The numbers of an evaluation; lists, one value a class, are for files."""
    told = ("loss", *METRICS)
    return ", ".join(f"{name} {row[name]:.4g}" for name in told if isinstance(row.get(name), float | int))


def say_span(values: list[int]) -> str:
    """`7`, or `5-7` when they differ."""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"
