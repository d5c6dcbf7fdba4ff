"""Which ranks hold up the others. The only place of the rule."""

from collections.abc import Sequence

SLOW_FACTOR = 1.25
SLOW_MARGIN_S = 0.05  # steps of milliseconds differ by more than the factor without meaning anything


def find_slow(busy_s: Sequence[float]) -> list[bool]:
    """For each rank whether it was busy for well longer than the median of the others, before it waited for them.

    Ranks that have no step to tell of yet (0) are neither slow nor others."""
    ordered = sorted(busy for busy in busy_s if busy > 0)
    return [busy > 0 and len(ordered) > 1 and _is_slow(busy, ordered) for busy in busy_s]


def _is_slow(busy: float, ordered: Sequence[float]) -> bool:
    middle = (len(ordered) - 2) // 2  # of the others; of two middle ones the lower
    median = ordered[middle] if ordered[middle] < busy else ordered[middle + 1]
    return busy > max(median * SLOW_FACTOR, median + SLOW_MARGIN_S)
