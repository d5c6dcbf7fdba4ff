"""A row of a table -> the numbers that a model is fed: `features`, and the `target`. Called by fields.py for tasks that
have data.table; prepare looks at every row beforehand with the same code, so that bad ones are found there.

What is filled in, clipped and scaled goes by figures of the chain (prepare/collect.py)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from orchestrator.config.data import ROW, CategorySection, TableSection
from orchestrator.config.problems import nearest, shown
from orchestrator.config.run import RunConfig
from orchestrator.config.task_check import name_column
from orchestrator.data.decoding.fields import TransformFailed

REMEDY = "correct the row, or data.table; data.on_bad=skip leaves such rows out when they are prepared"
LARGEST = float(np.finfo(np.float32).max)


class BadRow(Exception):
    """A row that nothing can be learned from: which column, and what is wrong with it."""


class Figures(NamedTuple):
    """Of the chain: what is to be done to values, in order, and by column the mean and deviation to scale by."""

    repairs: Sequence[Mapping[str, Any]] = ()  # {column, fill} or {column, low, high}
    scales: Mapping[str, Sequence[float]] = {}


@dataclass(frozen=True)
class RowReader:
    """`classes`: how many the target has; None where it is a number."""

    table: TableSection
    classes: int | None
    figures: Figures

    @classmethod
    def of(cls, config: RunConfig, figures: Figures) -> "RowReader | None":
        """None where the samples are no rows of a table."""
        if config.data.table is None:
            return None
        return cls(config.data.table, count_target_classes(config), figures)

    def __reduce__(self) -> tuple[Any, ...]:
        return RowReader, (self.table, self.classes, self.figures)

    def __call__(self, columns: dict[str, list[Any]], failures: dict[int, str]) -> dict[str, list[Any]]:
        """The fields of a batch in place of its rows; None where a row has failed to decode."""
        read: dict[str, list[Any]] = {"features": [], "target": []}
        for number, row in enumerate(columns[ROW]):
            try:
                values = {} if number in failures else self.read(row)
            except BadRow as error:
                failed = TransformFailed(str(error), where="data.table", remedy=REMEDY)
                failed.row = number
                raise failed from error
            for name, column in read.items():
                column.append(values.get(name))
        return read

    def read(self, row: Any) -> dict[str, Any]:
        """Raises BadRow."""
        if not isinstance(row, dict):
            raise BadRow(f"its json member holds a {type(row).__name__}, not an object with columns")
        row = self._repair(row) if self.figures.repairs else row
        features: list[float] = []
        for name, spread in self._columns:
            features += spread(find_value(row, name), name)
        return {"features": np.array(features, np.float32), "target": self._read_target(row)}

    @cached_property
    def _columns(self) -> list[tuple[str, Callable[[Any, str], list[float]]]]:
        """By column what makes numbers of its value."""
        return [(name_column(column), self._spreader(column)) for column in self.table.columns]

    @cached_property
    def _class_of(self) -> dict[str, int]:
        return {label: number for number, label in enumerate(self.table.labels or ())}

    def _spreader(self, column: str | CategorySection) -> Callable[[Any, str], list[float]]:
        if isinstance(column, CategorySection):
            places = {value: place for place, value in enumerate(column.values)}
            return lambda value, name: _spread_category(value, name, places)
        mean, deviation = self.figures.scales.get(column, (0.0, 1.0))
        # What never varies becomes 0, also where a later segment has something else.
        share = 1 / deviation if deviation else 0.0
        return lambda value, name: [_fit((read_number(value, name) - mean) * share, value, name)]

    def _read_target(self, row: Mapping[str, Any]) -> np.generic:
        name = self.table.target
        value = find_value(row, name)
        if self.classes is None:
            return np.float32(_fit(read_number(value, name), value, name))
        return np.int64(self._read_class(value, name))

    def _read_class(self, value: Any, name: str) -> int:
        if self.table.labels is not None:
            return _look_up(value, name, self._class_of, "data.table.labels")
        number, classes = read_number(value, name), self.classes or 0
        if not number.is_integer() or not 0 <= number < classes:
            raise BadRow(f"{name} is {shown(value)}, and classes are whole numbers from 0 to {classes - 1}")
        return int(number)

    def _repair(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        repaired = dict(row)
        for repair in self.figures.repairs:
            name = repair["column"]
            value = repaired.get(name)
            if "fill" in repair:
                repaired[name] = repair["fill"] if is_missing(value) else value
            elif isinstance(value, int | float) and not is_missing(value):
                repaired[name] = min(max(value, repair.get("low", -math.inf)), repair.get("high", math.inf))
        return repaired


def count_target_classes(config: RunConfig) -> int | None:
    """None where the target is a number."""
    return None if config.task.name == "tabular_regression" else config.num_classes


def is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def find_value(row: Mapping[str, Any], name: str) -> Any:
    if name not in row:
        raise BadRow(f"has no column '{name}'{nearest(name, map(str, row))}")
    value = row[name]
    if is_missing(value):
        what = "NaN" if isinstance(value, float) else shown(value)
        remedy = "`missing` of prepare.clean fills it in, or drops such rows"
        raise BadRow(f"has no value in column '{name}' ({what}): {remedy}")
    return value


def read_number(value: Any, name: str) -> float:
    """True and false are 1 and 0."""
    if not isinstance(value, int | float):
        raise BadRow(f"{name} is {shown(value)}, which is no number")
    try:
        return float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return math.inf


def _fit(number: float, value: Any, name: str) -> float:
    if not abs(number) <= LARGEST:
        raise BadRow(f"{name} is {shown(value)}, which is too large a number")
    return number


def _spread_category(value: Any, name: str, places: Mapping[str, int]) -> list[float]:
    columns = [0.0] * len(places)
    columns[_look_up(value, name, places, "data.table.columns")] = 1.0
    return columns


def _look_up(value: Any, name: str, places: Mapping[str, int], key: str) -> int:
    if isinstance(value, str) and value in places:
        return places[value]
    near = nearest(value, places) if isinstance(value, str) else ""
    raise BadRow(f"{name} is {shown(value)}, which is none of its values in {key}{near}")
