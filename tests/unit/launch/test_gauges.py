import io
import math

import pytest
from rich.console import Console

from launch.screens.gauges import Bar, Sparkline, draw


def shown(gauge: Bar | Sparkline, width: int = 80, encoding: str = "utf-8") -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=file, width=width).print(gauge)
    file.seek(0)
    return file.read().rstrip("\n")


def test_a_curve_goes_from_its_lowest_to_its_highest_value() -> None:
    assert draw([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], width=80) == "▁▂▃▄▅▆▇█"


def test_where_there_is_less_room_neighbours_share_a_place() -> None:
    assert draw([0.0, 0.0, 7.0, 7.0], width=2) == "▁█"
    assert shown(Sparkline([7.0] * 20 + [0.0] * 20), width=10) == "█████▁▁▁▁▁"


def test_what_is_no_number_is_marked() -> None:
    assert draw([1.0, math.nan, 2.0, math.inf], width=4) == "▁!█!"
    assert draw([math.nan], width=4) == "!"


@pytest.mark.parametrize(("values", "line"), [([], ""), ([3.0], "▁"), ([2.0, 2.0], "▁▁")])
def test_few_and_equal_values_are_drawn_too(values: list[float], line: str) -> None:
    assert draw(values, width=80) == line


@pytest.mark.parametrize(("share", "bar"), [(0.0, "────"), (0.5, "━━──"), (0.99, "━━━─"), (1.0, "━━━━"), (1.5, "━━━━")])
def test_a_bar_is_full_only_when_all_is_done(share: float, bar: str) -> None:
    assert shown(Bar(share, 4)) == bar


def test_without_utf8_both_are_ascii() -> None:
    assert shown(Sparkline([0.0, 7.0]), encoding="ascii") == "_#"
    assert shown(Bar(0.5, 4), encoding="ascii") == "==--"
