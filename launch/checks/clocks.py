"""How far the clocks of nodes are apart. Leases are written by one node's clock and judged by another's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median_low

from launch.checks.check import Check, Level
from orchestrator.core.clock import Clock, SystemClock
from orchestrator.tracking.lease import MARGIN_S

TRIES = 5
MOST_APART_S = 0.5
_REMEDY = "keep the time of all nodes by chrony or another NTP client"


@dataclass(frozen=True, slots=True)
class Offset:
    """A node's clock against ours: `ahead_s`, right within `within_s` either way."""

    ahead_s: float
    within_s: float


def tell_time() -> float:
    return SystemClock().now()


def measure_offset(ask_time: Callable[[], float | None], clock: Clock, tries: int = TRIES) -> Offset | None:
    """The answer was given somewhere between question and return: the quickest of several says most."""
    offsets = []
    for _ in range(tries):
        asked = clock.now()
        told = ask_time()
        if told is None:
            return None
        half_s = (clock.now() - asked) / 2
        offsets.append(Offset(told - (asked + half_s), half_s))
    return min(offsets, key=lambda offset: offset.within_s)


def check_clocks(offsets: Mapping[str, Offset]) -> Check:
    """By node. Two clocks are apart by at least what the doubt about both of them leaves over."""
    first, last = (min(offsets.values(), key=_latest), max(offsets.values(), key=_earliest))
    apart_s = max(0.0, _earliest(last) - _latest(first))
    doubt_s = max(offset.within_s for offset in offsets.values())
    if apart_s <= MOST_APART_S:
        return Check("ok", "clocks", f"agree within {max(apart_s + 2 * doubt_s, 0.01):.2f} s")
    usual_s = median_low([offset.ahead_s for offset in offsets.values()])
    away = {node: offset.ahead_s - usual_s for node, offset in offsets.items()}
    odd = [
        f"{node} is {abs(s):.1f} s {'ahead' if s > 0 else 'behind'}" for node, s in away.items() if abs(s) > apart_s / 3
    ]
    level: Level = "problem" if apart_s > MARGIN_S else "warning"
    remedy = f"{_REMEDY}: from {MARGIN_S:g} s on a run may be taken for dead" if level == "warning" else _REMEDY
    return Check(level, "clocks", ", ".join(odd), remedy)


def _earliest(offset: Offset) -> float:
    return offset.ahead_s - offset.within_s


def _latest(offset: Offset) -> float:
    return offset.ahead_s + offset.within_s
