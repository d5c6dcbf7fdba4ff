"""A curve and a bar, each in one line of text; where the terminal cannot show blocks, in ASCII."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

_LEVELS, _ASCII_LEVELS = "▁▂▃▄▅▆▇█", "_.:-=+*#"
_NO_NUMBER = "!"


@dataclass(frozen=True, slots=True)
class Bar:
    """How much is done, from 0 to 1."""

    share: float
    width: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        done, left = "=-" if options.ascii_only else "━─"
        full = int(min(self.share, 1.0) * self.width)
        yield Text.assemble((done * full, "green"), (left * (self.width - full), "dim"), no_wrap=True)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(self.width, self.width)


@dataclass(frozen=True, slots=True)
class Sparkline:
    """As wide as there are values, or as there is room: then neighbours share a place."""

    values: Sequence[float]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        levels = _ASCII_LEVELS if options.ascii_only else _LEVELS
        yield Text(draw(self.values, options.max_width, levels), style="cyan", no_wrap=True)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(len(self.values), 8), len(self.values))


def draw(values: Sequence[float], width: int, levels: str = _LEVELS) -> str:
    places = min(width, len(values))
    shares = [values[len(values) * i // places : len(values) * (i + 1) // places] for i in range(places)]
    means = [statistics.fmean(share) for share in shares]
    finite = [mean for mean in means if math.isfinite(mean)]
    return "".join(_level(mean, finite, levels) if math.isfinite(mean) else _NO_NUMBER for mean in means)


def _level(value: float, among: Sequence[float], levels: str) -> str:
    low, high = min(among), max(among)
    share = (value - low) / (high - low) if high > low else 0.0
    return levels[min(int(share * len(levels)), len(levels) - 1)]
