"""Rules for tables, and the statistics behind them: against numpy, and the same bits in any order."""

import json
import math
import random
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from orchestrator.config.preparing import CleanStep
from orchestrator.core.errors import DataError
from orchestrator.prepare.clean.cleaner import Cleaner
from orchestrator.prepare.clean.sample import Removal, Sample
from orchestrator.prepare.clean.statistics import Column, Statistics

NUMBERS = [0.1, 1e16, -1e16, 0.2, 3.0, 3.0, 1e-300, 7.5, -2.25]


def cleaner(name: str, **args: Any) -> Cleaner:
    return Cleaner.of([CleanStep(name=name, args=args)])


def rows(*values: Any, column: str = "x") -> list[Sample]:
    return [Sample(meta={column: value}) for value in values]


def test_statistics_are_those_of_numpy() -> None:
    numbers = np.random.default_rng(1).normal(5, 3, 101)
    column = Column.of(numbers.tolist(), counted=True)
    assert column.count == 101
    assert column.mean() == pytest.approx(numbers.mean(), rel=1e-14)
    assert column.deviation() == pytest.approx(numbers.std(), rel=1e-13)
    for share in (0, Fraction(1, 4), Fraction(1, 2), Fraction(3, 4), 1):
        assert column.quantile(Fraction(share)) == pytest.approx(np.quantile(numbers, float(share)), rel=1e-15)
    even = Column.of([1.0, 2.0, 4.0, 10.0], counted=True)
    assert even.quantile(Fraction(1, 2)) == 3.0


def test_parts_come_to_the_same_bits_in_any_order() -> None:
    one = cleaner("outliers", columns=["x"], rule="iqr")
    whole = one.collect(rows(*NUMBERS))
    assert whole.columns["x"].mean() == float(sum(map(Fraction, NUMBERS)) / len(NUMBERS))
    for seed in range(20):
        shuffled = random.Random(seed).sample(NUMBERS, len(NUMBERS))
        cut = seed % len(NUMBERS)
        parts = [one.collect(rows(*shuffled[:cut])), one.collect(rows(*shuffled[cut:]))]
        merged = parts[1].merge(parts[0]).merge(Statistics())
        assert merged == whole
        assert json.dumps(merged.as_json()) == json.dumps(whole.as_json())


def test_statistics_survive_being_written_down() -> None:
    found = cleaner("outliers", columns=["x"], rule="iqr").collect(rows(*NUMBERS))
    assert Statistics.from_json(json.loads(json.dumps(found.as_json()))) == found
    with pytest.raises(DataError, match="statistics of format 2"):
        Statistics.from_json({"format": 2})


def test_only_columns_and_values_that_are_needed_are_kept() -> None:
    steps = [
        CleanStep(name="missing", args={"columns": ["a"], "rule": "mean"}),
        CleanStep(name="missing", args={"columns": ["b"]}),
        CleanStep(name="outliers", args={"columns": ["c"], "rule": "range", "low": 0}),
    ]
    found = Cleaner.of(steps).collect([Sample(meta={"a": 1, "b": 2, "c": 3}), Sample(meta={"a": 1})])
    assert found == Statistics({"a": Column(2, Fraction(2), Fraction(2), {})})
    assert Cleaner.of(steps).needs_statistics
    assert not Cleaner.of(steps[1:]).needs_statistics


@pytest.mark.parametrize("value", [None, math.nan, ""])
def test_rows_with_missing_values_go(value: Any) -> None:
    two = cleaner("missing", columns=["x", "y"])
    assert two.judge(
        [Sample(meta={"x": value, "y": 0}), Sample(meta={"y": value}), Sample(meta={"x": 0, "y": "a"})]
    ) == [
        Removal("missing", "no value for x"),
        Removal("missing", "no value for x, y"),
        None,
    ]
    assert two.judge([Sample()]) == [Removal("missing", "no value for x, y")]


def test_values_to_fill_in_are_written_down() -> None:
    steps = [
        CleanStep(name="missing", args={"columns": ["x"], "rule": "mean"}),
        CleanStep(name="missing", args={"columns": ["x"], "rule": "median"}),
        CleanStep(name="missing", args={"columns": ["who"], "rule": "constant", "value": "nobody"}),
        CleanStep(name="outliers", args={"columns": ["x"], "rule": "range", "low": 0, "then": "clip"}),
        CleanStep(name="outliers", args={"columns": ["x"], "rule": "zscore", "k": 1, "then": "clip"}),
    ]
    one = Cleaner.of(steps)
    one = one.with_statistics(one.collect(rows(1, 2, 6, None, "odd", math.inf)))
    assert one.judge(rows(None, 1e9)) == [None, None]
    deviation = math.sqrt(14 / 3)
    assert one.list_repairs() == [
        {"column": "x", "fill": 3.0},
        {"column": "x", "fill": 2.0},
        {"column": "who", "fill": "nobody"},
        {"column": "x", "low": 0},
        {"column": "x", "low": 3 - deviation, "high": 3 + deviation},
    ]


def test_outliers_by_deviations() -> None:
    one = cleaner("outliers", columns=["x"], rule="zscore", k=2.0)
    one = one.with_statistics(one.collect(rows(1, 3)))  # mean 2, deviation 1
    assert one.judge(rows(0, 4, 4.001, -0.001, None, "four", True)) == [
        None,
        None,
        Removal("outliers", "x is 4.001, outside 0 to 4"),
        Removal("outliers", "x is -0.001, outside 0 to 4"),
        None,
        Removal("outliers", "x is four, which is no number"),
        None,
    ]


def test_outliers_by_quartiles() -> None:
    one = cleaner("outliers", columns=["x"], rule="iqr")
    one = one.with_statistics(one.collect(rows(1, 2, 3, 4, 5)))  # quartiles 2 and 4
    assert one.judge(rows(-1, 7)) == [None, None]
    assert [str(removal) for removal in one.judge(rows(7.01, math.inf))] == [
        "outliers: x is 7.01, outside -1 to 7",
        "outliers: x is inf, outside -1 to 7",
    ]


def test_outliers_by_a_range_open_on_one_side() -> None:
    one = cleaner("outliers", columns=["x"], rule="range", high=10)
    assert one.judge(rows(-1e300, 10, 10.5)) == [None, None, Removal("outliers", "x is 10.5, outside -inf to 10")]


def test_statistics_that_are_needed_and_not_there_are_named() -> None:
    one = cleaner("outliers", columns=["x"], rule="iqr")
    with pytest.raises(DataError, match="need statistics"):
        one.judge(rows(1))
    with pytest.raises(DataError, match="column 'x' holds no number"):
        one.with_statistics(one.collect(rows("a", None))).judge(rows(1))
